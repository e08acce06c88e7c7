// The call-tree table: opens and closes rows, arrow keys as in a treegrid. htmx fetches children, until they are there.

const OPEN = "aria-expanded";
const FETCHED = "data-fetched";

export function enhanceTreeTable(table: HTMLTableElement): void {
  const body = table.tBodies[0];
  body.addEventListener("click", (event) => {
    const target = event.target as HTMLElement;
    const row = target.closest("tr");
    if (!row || !body.contains(row)) return;
    focus(body, row);
    if (target.closest("[data-toggle]")) toggle(row);
  });
  body.addEventListener("keydown", (event) => {
    const row = (event.target as HTMLElement).closest("tr");
    if (row && event.target === row && onKey(body, row, event.key)) event.preventDefault();
  });
  body.addEventListener("htmx:before:request", (event) => {
    for (const problem of body.querySelectorAll("tr.problem")) problem.remove();
    if (rowOf(event).hasAttribute(FETCHED)) event.preventDefault();
  });
  body.addEventListener("htmx:before:swap", (event) => {
    const { response, text } = (event as CustomEvent).detail.ctx;
    const rows = rowsIn(text);
    if (response.status < 400 && rows) return;
    // Our own server says in a row what went wrong; what stands before it sends pages.
    event.preventDefault();
    showProblem(table, rowOf(event), rows?.querySelector("tr.problem")?.textContent);
  });
  body.addEventListener("htmx:error", (event) => showProblem(table, rowOf(event)));
  body.addEventListener("htmx:after:swap", (event) => {
    const row = rowOf(event);
    if ((event.target as HTMLElement).closest("[data-toggle]")) {
      row.setAttribute(FETCHED, "");
      if (row.hidden || row.getAttribute(OPEN) === "false") hideBelow(row); // closed while they were on their way
    }
    ensureTabStop(body);
  });
  ensureTabStop(body);
}

function rowOf(event: Event): HTMLTableRowElement {
  return (event.target as HTMLElement).closest("tr")!;
}

/** What a server answered, if it is nothing but rows. */
function rowsIn(text: string): Document | null {
  if (!/^\s*<tr/.test(text)) return null;
  return new DOMParser().parseFromString(`<table>${text}</table>`, "text/html");
}

/** Below the row, which is closed, so that the next press asks again. */
function showProblem(table: HTMLTableElement, row: HTMLTableRowElement, message?: string | null): void {
  if (row.hasAttribute(OPEN)) row.setAttribute(OPEN, "false");
  const problem = document.createElement("tr");
  problem.className = "problem";
  problem.hidden = row.hidden;
  problem.setAttribute("role", "row");
  problem.setAttribute("aria-level", String(levelOf(row) + 1));
  const cell = problem.insertCell();
  cell.colSpan = table.tHead!.rows[0].cells.length;
  cell.setAttribute("role", "gridcell");
  cell.textContent = message || (table.dataset.failed ?? "");
  row.after(problem);
}

function hideBelow(row: HTMLTableRowElement): void {
  for (let next = row.nextElementSibling; next && levelOf(next) > levelOf(row); next = next.nextElementSibling) {
    (next as HTMLElement).hidden = true;
  }
}

function onKey(body: HTMLElement, row: HTMLTableRowElement, key: string): boolean {
  const rows = visibleRows(body);
  const index = rows.indexOf(row);
  switch (key) {
    case "ArrowDown":
      return focus(body, rows[index + 1]);
    case "ArrowUp":
      return focus(body, rows[index - 1]);
    case "Home":
      return focus(body, rows[0]);
    case "End":
      return focus(body, rows[rows.length - 1]);
    case "ArrowRight":
      return row.getAttribute(OPEN) === "false" ? press(row) : focus(body, childOf(rows, index));
    case "ArrowLeft":
      return row.getAttribute(OPEN) === "true" ? press(row) : focus(body, parentOf(rows, index));
    case "Enter":
    case " ":
      return press(row);
    default:
      return false;
  }
}

/** Presses the row's button, so that keys and pointer go the same way (and htmx hears of it). */
function press(row: HTMLTableRowElement): boolean {
  const button = row.querySelector<HTMLButtonElement>("[data-toggle], [data-more]");
  button?.click();
  return button !== null;
}

function toggle(row: HTMLTableRowElement): void {
  const opens = row.getAttribute(OPEN) !== "true";
  row.setAttribute(OPEN, String(opens));
  const level = levelOf(row);
  // What was closed inside a branch stays closed when the branch opens again.
  let hiddenBelow = Infinity;
  for (let next = row.nextElementSibling; next && levelOf(next) > level; next = next.nextElementSibling) {
    const depth = levelOf(next);
    if (depth <= hiddenBelow) hiddenBelow = Infinity;
    (next as HTMLElement).hidden = !opens || hiddenBelow !== Infinity;
    if (hiddenBelow === Infinity && next.getAttribute(OPEN) === "false") hiddenBelow = depth;
  }
}

function visibleRows(body: HTMLElement): HTMLTableRowElement[] {
  return [...body.querySelectorAll<HTMLTableRowElement>("tr:not([hidden])")];
}

function childOf(rows: HTMLTableRowElement[], index: number): HTMLTableRowElement | undefined {
  const next = rows[index + 1];
  return next && levelOf(next) > levelOf(rows[index]) ? next : undefined;
}

function parentOf(rows: HTMLTableRowElement[], index: number): HTMLTableRowElement | undefined {
  return rows.slice(0, index).findLast((row) => levelOf(row) < levelOf(rows[index]));
}

/** One row at a time can be reached by Tab. */
function focus(body: HTMLElement, row: HTMLTableRowElement | undefined): boolean {
  if (!row) return false;
  for (const other of body.querySelectorAll('tr[tabindex="0"]')) other.setAttribute("tabindex", "-1");
  row.tabIndex = 0;
  row.focus({ preventScroll: document.activeElement !== null && row.contains(document.activeElement) });
  return true;
}

function ensureTabStop(body: HTMLElement): void {
  if (!body.querySelector('tr[tabindex="0"]')) body.querySelector("tr")?.setAttribute("tabindex", "0");
}

function levelOf(row: Element): number {
  return Number(row.getAttribute("aria-level"));
}

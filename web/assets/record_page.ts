// The record page: flame graph and call-tree table.
import "htmx.org/dist/htmx.esm.js";
import { FlameGraph } from "./flame_graph";
import { enhanceTreeTable } from "./tree_table";

const section = document.querySelector<HTMLElement>("[data-flame]");
const graph = section && new FlameGraph(section);
void graph?.load();

const table = document.querySelector<HTMLTableElement>("[data-tree-table]");
if (table) enhanceTreeTable(table);

for (const button of document.querySelectorAll<HTMLButtonElement>("button[data-search-for]")) {
  button.addEventListener("click", () => graph?.searchFor(button.dataset.searchFor ?? ""));
}

// Numbers as short text; the same rules as web/display.py, so that table and graph agree.

/** Microseconds with three significant digits: `1.24 s`, `812 ms`, `35.0 µs`. */
export function duration(us: number): string {
  if (us === 0) return "0 ms";
  if (us >= 99.95e6) return `${Math.round(us / 1e6).toLocaleString("en-US")} s`;
  if (us >= 999.5e3) return `${threeDigits(us / 1e6)} s`;
  if (us >= 999.5) return `${threeDigits(us / 1e3)} ms`;
  return `${threeDigits(us)} µs`;
}

/** `part` of `whole` in percent: `34%`, `3.4%`, `<0.1%`. */
export function share(part: number, whole: number): string {
  if (whole <= 0 || part <= 0) return "0%";
  const percent = (100 * part) / whole;
  if (percent < 0.1) return "<0.1%";
  return percent < 9.95 ? `${percent.toFixed(1)}%` : `${percent.toFixed(0)}%`;
}

/** Puts values into a translated message: `{name}`. */
export function message(template: string, values: Record<string, string | number>): string {
  return template.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

function threeDigits(value: number): string {
  if (value >= 99.95) return value.toFixed(0);
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

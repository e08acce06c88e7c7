// Draws the visible part of a flame graph. The canvas is as large as its window onto the graph, never as the graph.
import { duration, share } from "./format";
import { eachVisible, extent, ROW_HEIGHT, type View } from "./flame_layout";
import type { Matches } from "./flame_search";
import type { Frame } from "./flame_tree";

export interface Scene {
  view: View;
  matches: Matches;
  searching: boolean;
  selected: number;
  hovered: number;
  /** Pixels scrolled away above the canvas. */
  scrollTop: number;
}

const SHADES = 4;
const FONT = '11px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace';
const TEXT_INSET = 4;
const SHORTEST_LABEL = 24;

interface Palette {
  own: string[];
  library: string[];
  synthetic: string;
  match: string;
  text: string;
  matchText: string;
  background: string;
  ring: string;
}

export class Painter {
  private readonly context: CanvasRenderingContext2D;
  private palette: Palette;
  private characterWidth = 7;
  private readonly shades = new Map<Frame, string>();

  constructor(private readonly canvas: HTMLCanvasElement) {
    this.context = canvas.getContext("2d", { alpha: false })!;
    this.palette = readPalette(canvas);
  }

  /** After a theme change: CSS variables are the only source of colour. */
  readTheme(): void {
    this.palette = readPalette(this.canvas);
    this.shades.clear();
  }

  /** Gives the canvas its size in CSS pixels and a backing store in device pixels. */
  resize(width: number, height: number): void {
    const ratio = window.devicePixelRatio || 1;
    const [deviceWidth, deviceHeight] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== deviceWidth) this.canvas.width = deviceWidth;
    if (this.canvas.height !== deviceHeight) this.canvas.height = deviceHeight;
    this.canvas.style.height = `${height}px`;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.font = FONT;
    this.context.textBaseline = "middle";
    this.characterWidth = this.context.measureText("MMMMMMMMMM").width / 10;
  }

  paint(scene: Scene): void {
    const { context, palette } = this;
    const height = this.canvas.clientHeight;
    context.globalAlpha = 1;
    context.fillStyle = palette.background;
    context.fillRect(0, 0, scene.view.width, height);
    const first = Math.floor(scene.scrollTop / ROW_HEIGHT);
    const last = Math.floor((scene.scrollTop + height) / ROW_HEIGHT);
    const zoomDepth = scene.view.tree.depth[scene.view.zoom];
    eachVisible(scene.view, first, last, (node, x, width) => {
      const isMatch = scene.searching && scene.matches.isMatch[node] === 1;
      const aside = scene.view.tree.depth[node] < zoomDepth || (scene.searching && !isMatch);
      this.paintFrame(scene, node, x, width, isMatch, aside);
    });
    context.globalAlpha = 1;
    this.outline(scene, scene.hovered, 1);
    this.outline(scene, scene.selected, 2);
  }

  private paintFrame(scene: Scene, node: number, x: number, width: number, isMatch: boolean, aside: boolean): void {
    const { context, palette } = this;
    const { tree } = scene.view;
    const frame = tree.frames[tree.frame[node]];
    const y = tree.depth[node] * ROW_HEIGHT - scene.scrollTop;
    context.globalAlpha = aside ? 0.45 : 1;
    context.fillStyle = isMatch ? palette.match : this.shade(frame, node === 0);
    context.fillRect(x, y, width > 2 ? width - 0.75 : width, ROW_HEIGHT - 1);
    if (width < SHORTEST_LABEL) return;
    const room = width - 2 * TEXT_INSET;
    const label = this.fitted(frame.name, room);
    if (!label) return;
    context.globalAlpha = aside ? 0.75 : 1;
    context.fillStyle = isMatch ? palette.matchText : palette.text;
    context.fillText(label, x + TEXT_INSET, y + ROW_HEIGHT / 2);
    this.paintTime(scene, node, x, y, room - this.widthOf(label));
  }

  /** Percent and time at the right end of a frame, when its name leaves room. */
  private paintTime(scene: Scene, node: number, x: number, y: number, room: number): void {
    const { total } = scene.view.tree;
    const text = `${share(total[node], total[0])}  ${duration(total[node])}`;
    const width = text.length * this.characterWidth;
    if (room < width + 16) return;
    this.context.globalAlpha *= 0.75;
    const frameWidth = extent(scene.view, node).width;
    this.context.fillText(text, x + frameWidth - width - TEXT_INSET - 1, y + ROW_HEIGHT / 2);
  }

  private outline(scene: Scene, node: number, thickness: number): void {
    if (node < 0) return;
    const { x, width } = extent(scene.view, node);
    if (!width) return;
    const y = scene.view.tree.depth[node] * ROW_HEIGHT - scene.scrollTop;
    this.context.strokeStyle = this.palette.ring;
    this.context.lineWidth = thickness;
    const inset = thickness / 2;
    this.context.strokeRect(x + inset, y + inset, Math.max(1, width - 0.75 - thickness), ROW_HEIGHT - 1 - thickness);
  }

  private shade(frame: Frame, isRoot: boolean): string {
    const known = this.shades.get(frame);
    if (known) return known;
    let colour = this.palette.synthetic;
    // Neighbours from one package share a shade, so borders between packages can be seen.
    if (frame.own) colour = this.palette.own[hash(frame.file) % SHADES];
    else if (!isRoot && !frame.name.startsWith("[")) colour = this.palette.library[hash(topPackage(frame.file)) % SHADES];
    this.shades.set(frame, colour);
    return colour;
  }

  private widthOf(text: string): number {
    return isAscii(text) ? text.length * this.characterWidth : this.context.measureText(text).width;
  }

  /** As much of `text` as fits, with an ellipsis; nothing when that would be no help. */
  private fitted(text: string, room: number): string {
    if (this.widthOf(text) <= room) return text;
    let length = Math.min(text.length, Math.floor(room / this.characterWidth) - 1);
    while (length > 1 && this.widthOf(text.slice(0, length)) + this.characterWidth > room) length--;
    return length > 1 ? `${text.slice(0, length)}…` : "";
  }
}

function readPalette(probe: HTMLElement): Palette {
  // A custom property holds `light-dark(...)` unresolved; as a used colour it is resolved for the theme.
  const colour = (name: string): string => {
    probe.style.color = `var(--flame-${name})`;
    return getComputedStyle(probe).color;
  };
  const shades = (name: string) => Array.from({ length: SHADES }, (_, index) => colour(`${name}-${index + 1}`));
  return {
    own: shades("own"),
    library: shades("library"),
    synthetic: colour("synthetic"),
    match: colour("match"),
    text: colour("text"),
    matchText: colour("match-text"),
    background: colour("background"),
    ring: colour("ring"),
  };
}

function topPackage(file: string): string {
  return file.split("/", 1)[0];
}

function hash(text: string): number {
  let value = 0;
  for (let index = 0; index < text.length; index++) value = (value * 31 + text.charCodeAt(index)) >>> 0;
  return value;
}

function isAscii(text: string): boolean {
  return /^[\x20-\x7e]*$/.test(text);
}

import { editDistance } from "@sealpod/core";

/** Longest name that is compared: the work grows with the square of it. */
const MAX_COMPARED = 64;

/** The name that a misspelt one most likely stands for: the nearest by single-letter changes, if at most a third of its letters differ. */
export function nearestName(found: string, names: readonly string[]): string | undefined {
  if (found.length > MAX_COMPARED) return undefined;
  let best: { readonly name: string; readonly distance: number } | undefined;
  for (const name of names) {
    const distance = editDistance(found.toLowerCase(), name.toLowerCase());
    if (distance <= Math.max(1, Math.floor(name.length / 3)) && (best === undefined || distance < best.distance)) best = { name, distance };
  }
  return best?.name;
}

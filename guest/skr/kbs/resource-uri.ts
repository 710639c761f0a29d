import { SkrError } from "../errors.ts";

/** A resource of a key broker. */
export interface KbsResource {
  readonly repository: string;
  readonly type: string;
  readonly tag: string;
}

const PART = /^(?!\.{1,2}$)[A-Za-z0-9_.-]{1,256}$/;

/**
 * The resource that a text names: a URI `kbs://[host]/<repository>/<type>/<tag>`, whose host says nothing (specs/attestation.md 9.5), its path alone, or one name, which stands for
 * `default/key/<name>`.
 * @throws {SkrError} ERR_SKR_REQUEST
 */
export function parseResource(text: string): KbsResource {
  const plugin = /^kbs\+([^:]{1,40}):/.exec(text)?.[1];
  if (plugin !== undefined) throw wrong(text, `the plugin ${JSON.stringify(plugin)} is none that this client knows`);
  const path = /^kbs:\/\/[^/]*\/(.*)$/s.exec(text)?.[1] ?? text;
  const parts = path.split("/");
  const [repository, type, tag] = parts.length === 1 ? ["default", "key", path] : parts;
  if (repository === undefined || type === undefined || tag === undefined || parts.length > 3) throw wrong(text, `it has ${parts.length} parts`);
  if (![repository, type, tag].every((part) => PART.test(part))) throw wrong(text, 'a part is not 1 to 256 letters, digits, "_", "-" or "."');
  return { repository, type, tag };
}

/** The path of a resource, as URLs have it. */
export function formatResource({ repository, type, tag }: KbsResource): string {
  return `${repository}/${type}/${tag}`;
}

function wrong(text: string, problem: string): SkrError {
  return new SkrError("ERR_SKR_REQUEST", `${JSON.stringify(text.slice(0, 100))} names no resource of a key broker: ${problem}`, {
    hint: "Expected a name, REPOSITORY/TYPE/TAG, or kbs:///REPOSITORY/TYPE/TAG.",
  });
}

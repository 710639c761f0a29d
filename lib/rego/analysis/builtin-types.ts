import type { Type } from "./types.ts";
import { ANY, ARRAY, arrayOf, BOOLEAN, NULL, NUMBER, OBJECT, objectOf, SET, setOf, STRING, tupleOf, unionOf } from "./types.ts";

/** Types of a function's operands and of its result. */
export interface FunctionType {
  readonly operands: readonly Type[];
  readonly result: Type;
}

const STRINGS = arrayOf(STRING);
const NUMBERS = arrayOf(NUMBER);
const LIST = unionOf(ARRAY, SET);
const LIST_OF_STRINGS = unionOf(STRINGS, setOf(STRING));
const LIST_OF_NUMBERS = unionOf(NUMBERS, setOf(NUMBER));
const STRING_OR_STRINGS = unionOf(STRING, LIST_OF_STRINGS);
const COLLECTION = unionOf(ARRAY, SET, OBJECT);
const NUMBER_OR_SET = unionOf(NUMBER, SET);
const SETS = setOf(SET);
const NAMED = objectOf(STRING, ANY);
/** Paths into a document: `"a/b"` or `["a", "b"]`. */
const PATH = unionOf(STRING, ARRAY);
const PATHS = unionOf(arrayOf(PATH), setOf(PATH));
/** Nanoseconds, with a time zone and a layout or without. */
const TIME = unionOf(NUMBER, tupleOf([NUMBER, STRING]));
const LAID_OUT_TIME = unionOf(TIME, tupleOf([NUMBER, STRING, STRING]));
const DATE = tupleOf([NUMBER, NUMBER, NUMBER]);
const DURATION = tupleOf([NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER]);

/**
 * Functions by signature, as OPA declares them. Where OPA's implementation takes more than its declaration says, or the
 * declaration changed between releases, the operand is `any`: what some OPA accepts is not refused here.
 */
const SIGNATURES: readonly (readonly [names: string, operands: readonly Type[], result: Type])[] = [
  ["equal neq lt lte gt gte internal.member_2", [ANY, ANY], BOOLEAN],
  ["internal.member_3", [ANY, ANY, ANY], BOOLEAN],

  ["plus mul div rem bits.or bits.and bits.xor bits.lsh bits.rsh", [NUMBER, NUMBER], NUMBER],
  ["minus", [NUMBER_OR_SET, NUMBER_OR_SET], NUMBER_OR_SET],
  ["abs round ceil floor bits.negate", [NUMBER], NUMBER],
  ["sum product", [LIST_OF_NUMBERS], NUMBER],
  ["numbers.range", [NUMBER, NUMBER], NUMBERS],
  ["numbers.range_step", [NUMBER, NUMBER, NUMBER], NUMBERS],
  ["format_int", [NUMBER, NUMBER], STRING],
  ["rand.intn", [STRING, NUMBER], NUMBER],

  ["count", [unionOf(ARRAY, OBJECT, SET, STRING)], NUMBER],
  ["max min", [LIST], ANY],
  ["sort", [LIST], ARRAY],
  ["all any", [LIST], BOOLEAN],
  ["and or set_diff", [SET, SET], SET],
  ["union intersection", [SETS], SET],
  ["array.concat", [ARRAY, ARRAY], ARRAY],
  ["array.slice", [ARRAY, NUMBER, NUMBER], ARRAY],
  ["array.reverse array.flatten", [ARRAY], ARRAY],

  ["contains startswith endswith re_match regex.match regex.globs_match", [STRING, STRING], BOOLEAN],
  ["strings.any_prefix_match strings.any_suffix_match", [STRING_OR_STRINGS, STRING_OR_STRINGS], BOOLEAN],
  ["concat", [STRING, LIST_OF_STRINGS], STRING],
  ["indexof strings.count", [STRING, STRING], NUMBER],
  ["indexof_n", [STRING, STRING], NUMBERS],
  ["lower upper trim_space strings.reverse", [STRING], STRING],
  ["trim trim_left trim_right trim_prefix trim_suffix", [STRING, STRING], STRING],
  ["replace", [STRING, STRING, STRING], STRING],
  ["strings.replace_n", [objectOf(STRING, STRING), STRING], STRING],
  ["split", [STRING, STRING], STRINGS],
  ["substring", [STRING, NUMBER, NUMBER], STRING],
  ["sprintf", [STRING, ARRAY], STRING],
  ["strings.render_template", [STRING, NAMED], STRING],
  ["internal.template_string", [ARRAY], STRING],

  ["regex.is_valid", [ANY], BOOLEAN],
  ["regex.find_n", [STRING, STRING, NUMBER], STRINGS],
  ["regex.find_all_string_submatch_n", [STRING, STRING, NUMBER], arrayOf(STRINGS)],
  ["regex.split", [STRING, STRING], STRINGS],
  ["regex.replace", [STRING, STRING, STRING], STRING],
  ["regex.template_match", [STRING, STRING, STRING, STRING], BOOLEAN],
  ["glob.match", [STRING, unionOf(NULL, STRINGS), STRING], BOOLEAN],
  ["glob.quote_meta", [STRING], STRING],

  ["is_number is_string is_boolean is_array is_set is_object is_null", [ANY], BOOLEAN],
  ["type_name", [ANY], STRING],
  ["to_number", [unionOf(NULL, BOOLEAN, NUMBER, STRING)], NUMBER],
  ["cast_array", [ANY], ARRAY],
  ["cast_set", [ANY], SET],
  ["cast_object", [ANY], OBJECT],
  ["cast_string", [ANY], STRING],
  ["cast_boolean", [ANY], BOOLEAN],
  ["cast_null", [ANY], NULL],

  ["object.get", [OBJECT, ANY, ANY], ANY],
  ["object.keys", [OBJECT], SET],
  ["object.union", [OBJECT, OBJECT], ANY],
  ["object.union_n", [arrayOf(OBJECT)], ANY],
  ["object.remove object.filter", [OBJECT, COLLECTION], ANY],
  ["object.subset", [ANY, ANY], ANY],
  ["json.filter json.remove", [OBJECT, PATHS], ANY],
  ["json.patch", [ANY, arrayOf(OBJECT)], ANY],
  ["json.marshal", [ANY], STRING],
  ["json.marshal_with_options", [ANY, OBJECT], STRING],
  ["json.unmarshal", [STRING], ANY],
  ["json.is_valid", [ANY], BOOLEAN],
  ["json.verify_schema", [ANY], ANY],
  ["json.match_schema", [ANY, ANY], ANY],
  ["yaml.marshal", [ANY], STRING],
  ["yaml.unmarshal", [STRING], ANY],
  ["yaml.is_valid", [ANY], BOOLEAN],
  ["walk", [ANY], tupleOf([ARRAY, ANY])],
  ["graph.reachable", [OBJECT, LIST], SET],
  ["graph.reachable_paths", [OBJECT, LIST], setOf(ARRAY)],

  ["base64.encode base64.decode base64url.encode base64url.encode_no_pad base64url.decode hex.encode hex.decode", [STRING], STRING],
  ["base64.is_valid", [ANY], BOOLEAN],
  ["urlquery.encode urlquery.decode", [STRING], STRING],
  ["urlquery.encode_object", [objectOf(STRING, STRING_OR_STRINGS)], STRING],
  ["urlquery.decode_object", [STRING], objectOf(STRING, STRINGS)],
  ["crypto.md5 crypto.sha1 crypto.sha256", [STRING], STRING],
  ["crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512", [STRING, STRING], STRING],
  ["crypto.hmac.equal", [STRING, STRING], BOOLEAN],

  ["semver.compare", [STRING, STRING], NUMBER],
  ["semver.is_valid", [ANY], BOOLEAN],
  ["units.parse units.parse_bytes", [STRING], NUMBER],
  ["uuid.rfc4122", [STRING], STRING],
  ["uuid.parse", [STRING], ANY],

  ["time.now_ns", [], NUMBER],
  ["time.parse_ns", [STRING, STRING], NUMBER],
  ["time.parse_rfc3339_ns time.parse_duration_ns", [STRING], NUMBER],
  ["time.format", [LAID_OUT_TIME], STRING],
  ["time.date time.clock", [TIME], DATE],
  ["time.weekday", [TIME], STRING],
  ["time.add_date", [NUMBER, NUMBER, NUMBER, NUMBER], NUMBER],
  ["time.diff", [TIME, TIME], DURATION],

  ["net.cidr_contains net.cidr_overlap net.cidr_intersects", [STRING, STRING], BOOLEAN],
  ["net.cidr_is_valid", [ANY], BOOLEAN],
  ["net.cidr_expand net.lookup_ip_addr", [STRING], setOf(STRING)],
  ["net.cidr_contains_matches", [ANY, ANY], ANY],
  ["net.cidr_merge", [LIST], setOf(STRING)],
  ["http.send", [NAMED], OBJECT],
  ["opa.runtime", [], NAMED],
  ["trace", [STRING], BOOLEAN],

  ["io.jwt.decode", [STRING], tupleOf([OBJECT, OBJECT, STRING])],
  ["io.jwt.decode_verify", [STRING, NAMED], tupleOf([BOOLEAN, OBJECT, OBJECT])],
  ["io.jwt.verify_rs256 io.jwt.verify_rs384 io.jwt.verify_rs512 io.jwt.verify_ps256 io.jwt.verify_ps384 io.jwt.verify_ps512", [STRING, STRING], BOOLEAN],
  ["io.jwt.verify_es256 io.jwt.verify_es384 io.jwt.verify_es512 io.jwt.verify_eddsa", [STRING, STRING], BOOLEAN],
  ["io.jwt.verify_hs256 io.jwt.verify_hs384 io.jwt.verify_hs512", [STRING, STRING], BOOLEAN],
  ["io.jwt.encode_sign", [NAMED, NAMED, NAMED], STRING],
  ["io.jwt.encode_sign_raw", [STRING, STRING, STRING], STRING],
];

/** Types of the builtin functions; one that is missing here takes and gives anything. */
export const BUILTIN_TYPES: ReadonlyMap<string, FunctionType> = new Map(
  SIGNATURES.flatMap(([names, operands, result]) => names.split(" ").map((name): [string, FunctionType] => [name, { operands, result }])),
);

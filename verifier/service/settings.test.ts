import { describe, expect, it } from "vitest";
import { commonSettings, isLoopback, limitsOf, operationsOf, serveOptionsOf } from "./common-settings.ts";
import {
  addressSetting,
  booleanSetting,
  choiceSetting,
  describeSettings,
  durationSetting,
  fileSetting,
  integerSetting,
  jsonSetting,
  listSetting,
  printSettings,
  readSettings,
  sizeSetting,
  textSetting,
  type ReadSettings,
} from "./settings.ts";

const SCHEMA = {
  issuer: textSetting("Who issues.", { required: true }, "a name"),
  listen: addressSetting("Where.", { preset: "127.0.0.1:1" }),
  masterKey: { file: fileSetting("The key.", {}) },
  limits: {
    count: integerSetting("How many.", { preset: 5 }, 1, 10),
    time: durationSetting("How long.", { preset: "30s" }, 1000, 86_400_000),
    size: sizeSetting("How large.", { preset: "2MiB" }, 1, 2 ** 30),
  },
  level: choiceSetting("How loud.", ["low", "high"], { preset: "low" }),
  open: booleanSetting("Whether.", { preset: false }),
  names: listSetting("Which.", { preset: [] }, textSetting("One.", { required: true }, "a name")),
  any: jsonSetting("Anything.", "an object", {}, (value) => value),
};

function read(text: string | undefined, env: Record<string, string> = {}, isDraft = false): ReadSettings<typeof SCHEMA> {
  return readSettings(SCHEMA, { text, name: "c.json", directory: "/etc/x", env, prefix: "APP_", isDraft });
}

function problems(text: string, env: Record<string, string> = {}): readonly string[] {
  try {
    read(text, env);
  } catch (error) {
    expect(error).toMatchObject({ code: "ERR_SERVICE_CONFIG" });
    return (error as { details: { problems: readonly string[] } }).details.problems;
  }
  return [];
}

describe("readSettings", () => {
  it("reads a file, with defaults for what it does not say", () => {
    const { value } = read('{"issuer":"me","masterKey":{"file":"k/key"},"limits":{"count":7}}');
    expect(value).toEqual({
      issuer: "me",
      listen: { host: "127.0.0.1", port: 1 },
      masterKey: { file: "/etc/x/k/key" },
      limits: { count: 7, time: 30_000, size: 2 * 1024 ** 2 },
      level: "low",
      open: false,
      names: [],
    });
  });

  it("puts variables above the file", () => {
    const env = {
      APP_ISSUER: "they",
      APP_MASTER_KEY_FILE: "/run/key",
      APP_LIMITS_COUNT: "3",
      APP_LIMITS_TIME: "2m",
      APP_OPEN: "true",
      APP_NAMES: "a, b",
      APP_ANY: '{"x":1}',
      OTHER: "not ours",
    };
    const { value } = read('{"issuer":"me","limits":{"count":7},"names":["z"]}', env);
    expect(value).toMatchObject({
      issuer: "they",
      masterKey: { file: "/run/key" },
      limits: { count: 3, time: 120_000 },
      open: true,
      names: ["a", "b"],
      any: { x: 1 },
    });
    expect(read('{"issuer":"me"}', { APP_NAMES: '["a,b"]' }).value.names).toEqual(["a,b"]);
    expect(read('{"issuer":"me"}', { APP_NAMES: "" }).value.names).toEqual([]);
  });

  it("prints a configuration that reads back as itself", () => {
    const first = read('{"issuer":"me","limits":{"size":"64KiB"},"any":[1,"x"]}', { APP_LEVEL: "high" });
    const text = printSettings(first.effective);
    expect(read(text)).toEqual(first);
  });

  it("lets required keys miss in a draft alone", () => {
    expect(problems("{}")).toEqual(["issuer is missing: Who issues. (in c.json, or as APP_ISSUER)"]);
    expect(read("{}", {}, true).effective["issuer"]).toBe(null);
    expect(problems('{"issuer":null}')).toHaveLength(1);
  });

  it.each<[string, string, Record<string, string>, string]>([
    ["an unknown key", '{"isuer":"x"}', {}, "c.json: there is no key isuer; did you mean issuer?"],
    ["an unknown key in a section", '{"issuer":"x","limits":{"cuont":1}}', {}, "c.json: there is no key limits.cuont; did you mean limits.count?"],
    ["a key of another letter case", '{"Issuer":"x"}', {}, "c.json: there is no key Issuer; did you mean issuer?"],
    ["a key that is like none", '{"quux":"x"}', {}, "c.json: there is no key quux; there are issuer, listen, masterKey, limits, level, open, names, any"],
    ["a key of objects", '{"issuer":"x","constructor":1}', {}, "c.json: there is no key constructor; there are "],
    ["__proto__", '{"issuer":"x","__proto__":1}', {}, "c.json: there is no key __proto__; there are "],
    ["an unknown variable", '{"issuer":"x"}', { APP_LISTN: "" }, "there is no environment variable APP_LISTN; did you mean APP_LISTEN?"],
    ["a section that is none", '{"issuer":"x","limits":3}', {}, "c.json: limits is 3, expected an object with count, time, size"],
    ["a wrong type", '{"issuer":3}', {}, "c.json: issuer is 3: expected a name"],
    ["an integer out of range", '{"issuer":"x","limits":{"count":11}}', {}, "c.json: limits.count is 11: expected an integer from 1 to 10"],
    ["an integer with a fraction", '{"issuer":"x","limits":{"count":1.5}}', {}, "c.json: limits.count is 1.5: "],
    ["an integer as text", '{"issuer":"x","limits":{"count":"7"}}', {}, 'c.json: limits.count is "7": '],
    ["an integer in a variable", '{"issuer":"x"}', { APP_LIMITS_COUNT: "many" }, 'APP_LIMITS_COUNT is "many": expected an integer'],
    ["a duration without unit", '{"issuer":"x","limits":{"time":"30"}}', {}, 'c.json: limits.time is "30": expected a duration from 1s to 1d'],
    ["a duration that is too long", '{"issuer":"x","limits":{"time":"2d"}}', {}, "c.json: limits.time"],
    ["a size of another unit", '{"issuer":"x","limits":{"size":"2MB"}}', {}, "c.json: limits.size"],
    [
      "an address with a password, without the password",
      '{"issuer":"x","listen":"postgres://user:hunter2@host/db"}',
      {},
      'c.json: listen is "postgres://user:…@host/db": expected host:port',
    ],
    ["an address without port", '{"issuer":"x","listen":"localhost"}', {}, 'c.json: listen is "localhost": expected host:port'],
    ["a port too high", '{"issuer":"x","listen":"localhost:65536"}', {}, "c.json: listen"],
    ["a choice that is none", '{"issuer":"x","level":"loud"}', {}, 'c.json: level is "loud": expected "low" or "high"'],
    ["a word for a boolean", '{"issuer":"x"}', { APP_OPEN: "yes" }, 'APP_OPEN is "yes": expected true or false'],
    ["an item that is none", '{"issuer":"x","names":["a",2]}', {}, 'c.json: names is ["a",2]: its item 1 is 2: expected a name'],
    ["an empty path", '{"issuer":"x","masterKey":{"file":""}}', {}, "c.json: masterKey.file"],
    ["JSON that is none", "{", {}, "c.json"],
    ["JSON that is no object", "[]", {}, "c.json: expected a JSON object"],
    ["a name twice", '{"issuer":"x","issuer":"y"}', {}, "c.json"],
    ["broken JSON in a variable", '{"issuer":"x"}', { APP_ANY: "{" }, "APP_ANY "],
  ])("refuses %s", (_what, text, env, message) => {
    expect(problems(text, env)[0]).toContain(message);
  });

  it("tells all problems at once", () => {
    expect(problems('{"listen":"x","level":"loud"}', { APP_OPEN: "yes" })).toHaveLength(4);
    expect(problems('{"isuer":"x","lisen":"y"}', { APP_X: "" })).toHaveLength(3);
  });

  it("does not spend long on names that are very long", () => {
    expect(problems(`{"${"issuer".repeat(50_000)}":1}`)[0]?.length).toBeLessThan(300);
  });

  it("describes every key in a table", () => {
    const table = describeSettings(SCHEMA, "APP_");
    expect(table.split("\n").filter((line) => line.startsWith("| `"))).toHaveLength(10);
    expect(table).toContain("| `masterKey.file` | `APP_MASTER_KEY_FILE` | none | The key. Takes a path. |");
    expect(table).toContain('| `limits.time` | `APP_LIMITS_TIME` | `"30s"` | How long. Takes a duration from 1s to 1d, such as 30s, 15m, 8h or 90d. |');
  });
});

describe("addresses", () => {
  it.each([
    ["127.0.0.1:8443", "127.0.0.1", 8443],
    ["[::1]:0", "::1", 0],
    ["name.example:65535", "name.example", 65_535],
  ])("reads %s", (text, host, port) => {
    expect(read(`{"issuer":"x","listen":"${text}"}`).value.listen).toEqual({ host, port });
  });
});

describe("the settings of every service", () => {
  const common = (text: string): ReturnType<typeof readCommon> => readCommon(text);
  function readCommon(text: string): ReadSettings<ReturnType<typeof commonSettings>>["value"] {
    return readSettings(commonSettings("127.0.0.1:8443"), { text, name: "c", directory: "/", env: {}, prefix: "A_" }).value;
  }

  it("has health and metrics among the paths on loopback, and nowhere on an address that others reach, unless told", () => {
    expect(operationsOf(common("{}"))).toBe("main");
    expect(operationsOf(common('{"listen":"[::1]:1"}'))).toBe("main");
    expect(operationsOf(common('{"listen":"0.0.0.0:1"}'))).toBe("off");
    expect(operationsOf(common('{"listen":"0.0.0.0:1","operations":"main"}'))).toBe("main");
    expect(operationsOf(common('{"operations":"127.0.0.1:9464"}'))).toEqual({ host: "127.0.0.1", port: 9464 });
  });

  it("makes limits of what was read", () => {
    expect(limitsOf(common('{"limits":{"ratePerSecond":0}}')).rate).toBe("off");
    expect(limitsOf(common('{"limits":{"ratePerSecond":9,"trustedProxies":["10.0.0.0/8"]}}'))).toMatchObject({
      rate: { perSecond: 9 },
      trustedProxies: ["10.0.0.0/8"],
      maxBody: 2 * 1024 ** 2,
    });
    expect(serveOptionsOf(common('{"tls":{"cert":"/c","key":"/k"},"operations":"127.0.0.1:9"}'))).toMatchObject({
      host: "127.0.0.1",
      port: 8443,
      tls: { cert: "/c", key: "/k" },
      operations: { port: 9 },
    });
  });

  it.each([
    ["127.0.0.1", true],
    ["127.9.9.9", true],
    ["::1", true],
    ["localhost", true],
    ["0.0.0.0", false],
    ["::", false],
    ["127.example.com", false],
    ["10.0.0.1", false],
  ])("knows whether %s is loopback", (host, isIt) => {
    expect(isLoopback(host)).toBe(isIt);
  });
});

import { describe, expect, it } from "vitest";
import { parseSettings } from "./flags.ts";
import { TOKEN_FILES } from "./access-token.ts";
import { findWorkloadIdentity } from "./workload-identity.ts";

describe("the command line", () => {
  const DEFAULTS = {
    sidecarArguments: undefined,
    port: 8080,
    logFile: undefined,
    logLevel: undefined,
    serverType: "http",
    allowMismatchedTcb: false,
    wrap: undefined,
  };

  it("may be empty, as the environment may", () => {
    expect(parseSettings([], {})).toEqual(DEFAULTS);
    expect(parseSettings([], { SkrSideCarArgs: "", Port: "", LogFile: "", LogLevel: "", ServerType: "" })).toEqual(DEFAULTS);
  });

  it("is read as Go reads flags", () => {
    const expected = { ...DEFAULTS, sidecarArguments: "e30=", port: 50_000, logFile: "/log", logLevel: "debug", serverType: "grpc", allowMismatchedTcb: true };
    const separate = ["-base64", "e30=", "-port", "50000", "-logfile", "/log", "-loglevel", "debug", "-server_type", "grpc", "-allowTestingMismatchedTCB"];
    expect(parseSettings(separate, {})).toEqual(expected);
    const joined = ["--base64=e30=", "--port=50000", "-logfile=/log", "-loglevel=debug", "-server_type=grpc", "-allowTestingMismatchedTCB=true"];
    expect(parseSettings(joined, {})).toEqual(expected);
    expect(parseSettings(["-allowTestingMismatchedTCB=false"], {})).toEqual(DEFAULTS);
    expect(parseSettings([], { SkrSideCarArgs: "e30=", Port: "50000", LogFile: "/log", LogLevel: "debug", ServerType: "grpc" })).toEqual({
      ...expected,
      allowMismatchedTcb: false,
    });
  });

  it("goes before the environment, unless a flag is empty", () => {
    expect(parseSettings(["-port=1", "-base64="], { Port: "2", SkrSideCarArgs: "e30=" })).toMatchObject({ port: 1, sidecarArguments: "e30=" });
  });

  it("names the files of the one-shot mode, all three", () => {
    expect(parseSettings(["-infile", "a", "-keypath", "b", "-outfile", "c"], {}).wrap).toEqual({ infile: "a", keypath: "b", outfile: "c" });
    expect(() => parseSettings(["-infile", "a", "-outfile", "c"], {})).toThrow(/^-keypath is missing/);
  });

  it.each<[readonly string[], Record<string, string>, RegExp]>([
    [["secret"], {}, /^argument 1 is not a flag$/],
    [["-", "x"], {}, /^argument 1 is not a flag$/],
    [["-port"], {}, /^-port needs a value$/],
    [["-Port", "1"], {}, /^there is no flag -Port$/],
    [["-port", "0"], {}, /^-port is "0"; expected 1 to 65535$/],
    [["-port", "65536"], {}, /^-port is "65536"/],
    [[], { Port: "0x50" }, /^Port is "0x50"/],
    [[], { ServerType: "GRPC" }, /^ServerType is "GRPC"; expected http or grpc$/],
    [["-server_type=x"], {}, /^-server_type is "x"/],
    [["-allowTestingMismatchedTCB=1"], {}, /^-allowTestingMismatchedTCB is true or false$/],
  ])("%j with %j is refused", (argv, env, message) => {
    expect(() => parseSettings(argv, env)).toThrow(expect.objectContaining({ code: "ERR_SKR_CONFIGURATION", message: expect.stringMatching(message) }));
  });
});

describe("the workload identity of the environment", () => {
  const [old = "", current = ""] = TOKEN_FILES;
  const FULL = { AZURE_CLIENT_ID: "client", AZURE_TENANT_ID: "tenant", AZURE_FEDERATED_TOKEN_FILE: "/file", AZURE_AUTHORITY_HOST: "https://login.test/" };

  it("is what the webhook sets", () => {
    const identity = { clientId: "client", tenantId: "tenant", tokenFiles: ["/file", old, current], authorityHost: "https://login.test/" };
    expect(findWorkloadIdentity(FULL)).toEqual({ identity, missing: [] });
    expect(findWorkloadIdentity({ ...FULL, AZURE_FEDERATED_TOKEN_FILE: current, AZURE_AUTHORITY_HOST: "" })).toMatchObject({
      identity: { tokenFiles: [current, old], authorityHost: undefined },
    });
    expect(findWorkloadIdentity({ ...FULL, AZURE_FEDERATED_TOKEN_FILE: "" })).toMatchObject({ identity: { tokenFiles: [old, current] } });
  });

  it.each<[Record<string, string>, readonly string[]]>([
    [{}, []],
    [{ AZURE_CLIENT_ID: "", AZURE_TENANT_ID: " ", AZURE_FEDERATED_TOKEN_FILE: "" }, []],
    [{ ...FULL, AZURE_CLIENT_ID: "" }, ["AZURE_CLIENT_ID"]],
    [{ AZURE_CLIENT_ID: "client" }, ["AZURE_TENANT_ID"]],
    [{ AZURE_FEDERATED_TOKEN_FILE: "/file" }, ["AZURE_CLIENT_ID", "AZURE_TENANT_ID"]],
  ])("%j is none; missing are %j", (env, missing) => {
    expect(findWorkloadIdentity(env)).toEqual({ identity: undefined, missing });
  });
});

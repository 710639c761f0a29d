/** Security contexts. Which settings a confidential guest honours, and what happens to the others, is in README.md. */
import { type Cursor, type Fields, object, type Read, record } from "./fields.ts";
import type { Capabilities, PodSecurityContext, SeccompProfile, SecurityContext } from "./model.ts";
import { boolean, oneOf, text, unixId } from "./values.ts";

const seccompProfile: Read<SeccompProfile> = object((fields, at) => {
  const type = fields.required("type", oneOf("RuntimeDefault", "Unconfined", "Localhost"), "RuntimeDefault");
  const localhostProfile = fields.optional("localhostProfile", text);
  if (type === "Localhost") {
    if (localhostProfile === undefined) at.refuse("missing-field", "no localhostProfile");
    else at.warn("ignored", "the profile is a file of the node and does not reach the guest: system calls are not filtered there");
  } else if (localhostProfile !== undefined) at.refuse("bad-value", "localhostProfile needs type Localhost");
  return { type, localhostProfile };
});

const appArmorProfile: Read<true> = object((fields, at) => {
  const type = fields.required("type", oneOf("RuntimeDefault", "Unconfined", "Localhost"), "RuntimeDefault");
  const profile = fields.optional("localhostProfile", text);
  if (type === "Localhost") at.warn("ignored", "the profile is of the node's kernel and does not reach the guest: AppArmor confines nothing there");
  else if (profile !== undefined) at.refuse("bad-value", "localhostProfile needs type Localhost");
  return true;
});

const readSeLinux = record({ user: text, role: text, type: text, level: text });

const seLinuxOptions: Read<true> = (at) => {
  at.warn("ignored", "the guest's kernel runs without SELinux: the label has no effect there");
  return readSeLinux(at);
};

const windowsOptions = (at: Cursor): undefined => at.refuse("bad-value", "the guest runs Linux");

/** What both security contexts have, and the model does not. */
function checkShared(fields: Fields): void {
  fields.check({ appArmorProfile, seLinuxOptions, windowsOptions });
}

/** core/v1 PodSecurityContext. */
export const podSecurityContext: Read<PodSecurityContext> = object((fields, at) => {
  checkShared(fields);
  fields.check({ seLinuxChangePolicy: oneOf("Recursive", "MountOption") });
  const sysctls = new Map<string, string>();
  fields.list(
    "sysctls",
    object((pair, pairAt) => {
      const name = pair.required("name", text, "");
      const value = pair.required("value", text, "");
      if (sysctls.has(name)) pairAt.refuse("bad-value", `sysctl ${JSON.stringify(name)} is set twice`);
      sysctls.set(name, value);
      return true;
    }),
  );
  return {
    runAsUser: fields.optional("runAsUser", unixId),
    runAsGroup: fields.optional("runAsGroup", unixId),
    runAsNonRoot: fields.optional("runAsNonRoot", boolean),
    fsGroup: fields.optional("fsGroup", unixId),
    fsGroupChangePolicy: fields.optional("fsGroupChangePolicy", oneOf("Always", "OnRootMismatch")),
    supplementalGroups: fields.list("supplementalGroups", unixId),
    supplementalGroupsPolicy: fields.optional("supplementalGroupsPolicy", oneOf("Merge", "Strict")),
    sysctls,
    seccompProfile: fields.optional("seccompProfile", seccompProfile),
    allowPrivilegeEscalation: fields.optional("allowPrivilegeEscalation", boolean),
    at: at.position,
  };
});

/** A pod's security context that says nothing. */
export function noPodSecurity(at: Cursor): PodSecurityContext {
  return { supplementalGroups: [], sysctls: new Map(), at: at.position };
}

const procMount: Read<true> = (at) => {
  const value = oneOf("Default", "Unmasked")(at);
  if (value === "Unmasked") at.refuse("bad-value", "Unmasked needs hostUsers: false, and the policy's rules refuse user namespaces: leave it out");
  return true;
};

const capability: Read<string> = (at) => {
  const name = text(at);
  if (name !== undefined && /^CAP_/i.test(name)) at.warn("bad-value", `Kubernetes writes capabilities without CAP_: the container would not get ${name}`);
  return name;
};

const capabilities: Read<Capabilities> = object((fields) => ({ add: fields.list("add", capability), drop: fields.list("drop", capability) }));

/** core/v1 SecurityContext. */
export const securityContext: Read<SecurityContext> = object((fields, at) => {
  checkShared(fields);
  fields.check({ procMount });
  const context: SecurityContext = {
    at: at.position,
    readOnlyRootFilesystem: fields.optional("readOnlyRootFilesystem", boolean),
    allowPrivilegeEscalation: fields.optional("allowPrivilegeEscalation", boolean),
    privileged: fields.optional("privileged", boolean),
    runAsUser: fields.optional("runAsUser", unixId),
    runAsGroup: fields.optional("runAsGroup", unixId),
    runAsNonRoot: fields.optional("runAsNonRoot", boolean),
    capabilities: fields.optional("capabilities", capabilities) ?? { add: [], drop: [] },
    seccompProfile: fields.optional("seccompProfile", seccompProfile),
  };
  if (context.privileged === true && context.allowPrivilegeEscalation === false) {
    at.refuse("bad-value", "a privileged container cannot have allowPrivilegeEscalation: false");
  }
  return context;
});

/** A container's security context that says nothing. */
export function noSecurity(at: Cursor): SecurityContext {
  return { at: at.position, capabilities: { add: [], drop: [] } };
}

/** core/v1 PodSpec: fields that would take the pod out of its guest. */
export function checkHostAccess(fields: Fields): void {
  for (const name of ["hostPID", "hostIPC"]) {
    fields.optional(name, (at) => (boolean(at) === true ? at.refuse("bad-value", "a confidential pod cannot share namespaces with its host") : undefined));
  }
  fields.optional("hostUsers", (at) =>
    boolean(at) === false
      ? at.refuse("bad-value", "the policy's rules refuse user namespaces: leave it out, the guest keeps the pod apart from its host")
      : undefined,
  );
  fields.optional(
    "os",
    object((os) => {
      os.required("name", (at) => (text(at) === "linux" ? true : at.refuse("bad-value", "the guest runs Linux")), true);
      return true;
    }),
  );
}

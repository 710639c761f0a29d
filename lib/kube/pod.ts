import { checkPod, type PlacedContainer } from "./checks.ts";
import { container, ephemeralContainer, NO_RESOURCES, resources } from "./container.ts";
import { type Cursor, listOf, object, type Read } from "./fields.ts";
import { NO_META, templateMeta } from "./metadata.ts";
import type { ClaimTemplate, Container, HostAlias, PodSpec, PodTemplate } from "./model.ts";
import { dnsLabel, dnsSubdomain } from "./names.ts";
import { checkHostAccess, noPodSecurity, podSecurityContext } from "./security.ts";
import { POD_FIELDS } from "./tolerated.ts";
import { boolean, oneOf, seconds, text } from "./values.ts";
import { volume } from "./volumes.ts";

/** A pod that has nothing in it: stands in where one could not be read. */
export function emptyPodSpec(at: Cursor): PodSpec {
  return {
    at: at.position,
    containers: [],
    initContainers: [],
    ephemeralContainers: [],
    volumes: [],
    hostNetwork: false,
    shareProcessNamespace: false,
    securityContext: noPodSecurity(at),
    setHostnameAsFQDN: false,
    hostAliases: [],
    resources: NO_RESOURCES,
    resourceClaims: [],
  };
}

/** A template that has nothing in it. */
export function emptyTemplate(at: Cursor): PodTemplate {
  return { metadata: NO_META, spec: emptyPodSpec(at) };
}

/** core/v1 PodTemplateSpec; the claims are those of the StatefulSet around it. */
export function podTemplate(claims: readonly ClaimTemplate[]): Read<PodTemplate> {
  return object((fields, at) => ({
    metadata: fields.optional("metadata", templateMeta) ?? NO_META,
    spec: fields.required("spec", podSpec(claims), emptyPodSpec(at)),
  }));
}

const hostAlias: Read<HostAlias> = object((fields, at) => ({
  at: at.position,
  ip: fields.required("ip", text, ""),
  hostnames: fields.list("hostnames", dnsSubdomain),
}));

const resourceClaim: Read<string> = object((fields) => {
  fields.check({ resourceClaimName: text, resourceClaimTemplateName: text });
  return fields.required("name", dnsLabel, "");
});

/** core/v1 PodSpec; the claims are those of the StatefulSet around it. */
export function podSpec(claims: readonly ClaimTemplate[]): Read<PodSpec> {
  return object((fields, at) => {
    const placed: PlacedContainer[] = [];
    const placing =
      <T extends Container>(role: PlacedContainer["role"], read: Read<T>): Read<T> =>
      (cursor) => {
        const value = read(cursor);
        if (value !== undefined) placed.push({ at: cursor, role, container: value });
        return value;
      };
    fields.check(POD_FIELDS);
    checkHostAccess(fields);
    const serviceAccount = fields.optional("serviceAccount", text);
    const spec: PodSpec = {
      at: at.position,
      initContainers: fields.list("initContainers", placing("init", container)),
      containers: fields.required("containers", listOf(placing("app", container)), []),
      ephemeralContainers: fields.list("ephemeralContainers", placing("ephemeral", ephemeralContainer)),
      volumes: fields.list("volumes", volume),
      hostNetwork: fields.optional("hostNetwork", boolean) ?? false,
      shareProcessNamespace: fields.optional("shareProcessNamespace", boolean) ?? false,
      securityContext: fields.optional("securityContext", podSecurityContext) ?? noPodSecurity(at),
      runtimeClassName: fields.optional("runtimeClassName", dnsSubdomain),
      // The API server copies the older name of the field to the newer one.
      serviceAccountName: fields.optional("serviceAccountName", text) ?? serviceAccount,
      automountServiceAccountToken: fields.optional("automountServiceAccountToken", boolean),
      enableServiceLinks: fields.optional("enableServiceLinks", boolean),
      restartPolicy: fields.optional("restartPolicy", oneOf("Always", "OnFailure", "Never")),
      hostname: fields.optional("hostname", dnsLabel),
      subdomain: fields.optional("subdomain", dnsLabel),
      setHostnameAsFQDN: fields.optional("setHostnameAsFQDN", boolean) ?? false,
      hostnameOverride: fields.optional("hostnameOverride", dnsSubdomain),
      hostAliases: fields.list("hostAliases", hostAlias),
      dnsPolicy: fields.optional("dnsPolicy", oneOf("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")),
      nodeName: fields.optional("nodeName", text),
      activeDeadlineSeconds: fields.optional("activeDeadlineSeconds", seconds),
      resources: fields.optional("resources", resources) ?? NO_RESOURCES,
      resourceClaims: fields.list("resourceClaims", resourceClaim),
    };
    fields
      .find("ephemeralContainers")
      ?.warn("ignored", "the API server takes ephemeral containers only for pods that run (kubectl debug): it refuses this file");
    fields.find("resourceClaims")?.warn("ignored", "the devices of a claim are not in the policy: a container that gets one is refused");
    checkPod(at, spec, placed, claims);
    return spec;
  });
}

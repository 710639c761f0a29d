/** Messages and services of the wire. The `.proto` files are in `proto/`, the code made from them in `gen/`. */
export * from "./gen/agent_pb.ts";
export * from "./gen/csi_pb.ts";
export * from "./gen/health_pb.ts";
export * from "./gen/oci_pb.ts";
export * from "./gen/status_pb.ts";
export * from "./gen/ttrpc_pb.ts";
export * from "./gen/types_pb.ts";
// Names of their own, since the services share words such as Image.
export * as cgroupsV1Api from "./gen/cgroups_v1_pb.ts";
export * as cgroupsV2Api from "./gen/cgroups_v2_pb.ts";
export * as containerdTypes from "./gen/containerd_types_pb.ts";
export * as containersApi from "./gen/containers_pb.ts";
export * as contentApi from "./gen/content_pb.ts";
export * as criApi from "./gen/cri_pb.ts";
export * as eventsApi from "./gen/events_pb.ts";
export * as eventsTtrpcApi from "./gen/events_ttrpc_pb.ts";
export * as imageEventsApi from "./gen/image_events_pb.ts";
export * as imagesApi from "./gen/images_pb.ts";
export * as introspectionApi from "./gen/introspection_pb.ts";
export * as keyProviderApi from "./gen/key_provider_pb.ts";
export * as namespacesApi from "./gen/namespaces_pb.ts";
export * as processorApi from "./gen/processor_pb.ts";
export * as runtimeOptionsApi from "./gen/runtime_options_pb.ts";
export * as snapshotsApi from "./gen/snapshots_pb.ts";
export * as taskApi from "./gen/task_pb.ts";
export * as taskEventsApi from "./gen/task_events_pb.ts";
export * as versionApi from "./gen/version_pb.ts";
export * from "./errors.ts";
export * from "./message.ts";
export * from "./policy-input.ts";

// What every user of a message needs, so that the version of the runtime library is chosen in one place.
export { create, fromBinary, isMessage, toBinary } from "@bufbuild/protobuf";
export type { DescMessage, DescMethodServerStreaming, DescMethodUnary, DescService, Message, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
export { AnySchema, EmptySchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
export type { Any, Empty, Timestamp } from "@bufbuild/protobuf/wkt";

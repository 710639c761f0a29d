/** The guest's end of what connects it with its host. */
export * from "./channel.ts";
export * from "./pipe.ts";
export * from "./processor.ts";
export * from "./virtio-port.ts";

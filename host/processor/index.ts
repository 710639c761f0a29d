/** Client of an emulated security processor, for hosts without a real one. */
export { answerText, type Launched, malformedAnswer, parseAnswer, ProcessorClient } from "./client.ts";
export { PROCESSOR_ERRORS, ProcessorError, type ProcessorErrorCode } from "./errors.ts";
export * from "./protocol.ts";

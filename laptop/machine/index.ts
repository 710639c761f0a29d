/** What this laptop runs pods in. */
export { MACHINE_ERRORS, MachineError, type MachineErrorCode } from "./errors.ts";
export { ISOLATIONS, type Isolation, type IsolationChoice, openPodMachine, type PodMachine, type PodMachineOptions, processMachine } from "./pod-machine.ts";

export { clientOf } from "./client.ts";
export { commonSettings, isLoopback, type CommonSettings, type CommonValues, type OperationsPlace } from "./common-settings.ts";
export { requestBody, requestContext, type RequestContext } from "./context.ts";
export { SERVICE_ERRORS, ServiceError, type ServiceErrorCode } from "./errors.ts";
export { DEFAULT_LIMITS, type RateLimit, type ServiceLimits } from "./limits.ts";
export { LogWriter } from "./log-writer.ts";
export { Metrics, type Counter, type Gauge, type Histogram, type HistogramOptions, type MetricOptions } from "./metrics.ts";
export type { OperationsAnswer } from "./operations.ts";
export { openOperatorToken } from "./operator-token.ts";
export { readConfiguration, runServiceProgram, type ServiceProcess, type ServiceProgram, type StartedProgram } from "./program.ts";
export { serve, type Address, type RunningServer, type ServeOptions, type TlsFiles } from "./serve.ts";
export { runServiceMain, type MainProcess, type ServiceMainPorts } from "./service-main.ts";
export { createService, type ReadyCheck, type Refusal, type Service, type ServiceOptions } from "./service.ts";
export { fields, isPlainUrl, textOf } from "./setting-values.ts";
export {
  addressSetting,
  booleanSetting,
  choiceSetting,
  describeSettings,
  durationSetting,
  fileSetting,
  integerSetting,
  jsonSetting,
  listSetting,
  parseAddress,
  printSettings,
  readSettings,
  sizeSetting,
  textSetting,
  type ReadSettings,
  type Setting,
  type SettingsSchema,
  type SettingsSource,
  type SettingsValue,
} from "./settings.ts";
export { startService, type StartOptions, type StartedService } from "./start.ts";
export { repeat } from "./timer.ts";

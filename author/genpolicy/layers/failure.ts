import { OCI_ERRORS, OciError, type OciErrorCode } from "@sealpod/oci";
import { VERITY_ERRORS, VerityError, type VerityErrorCode } from "@sealpod/verity";
import { GenpolicyError } from "../errors.ts";
import type { Failure } from "./protocol.ts";

/** The error of a {@link Failure}: of the class that its code belongs to. */
export function errorOf({ code, message, hint, details }: Failure): Error {
  const options = { details, ...(hint === undefined ? {} : { hint }) };
  if (code !== undefined && Object.hasOwn(OCI_ERRORS, code)) return new OciError(code as OciErrorCode, message, options);
  if (code !== undefined && Object.hasOwn(VERITY_ERRORS, code)) return new VerityError(code as VerityErrorCode, message, options);
  return new GenpolicyError("ERR_GENPOLICY_IMAGE", message, options);
}

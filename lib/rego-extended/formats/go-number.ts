/**
 * Text of a number that is no integer as Go prints a float64 (`%g`, and its YAML encoder): with an exponent of two digits
 * from 10^6 on and below 10^-4.
 */
export function formatFloat(value: number): string {
  const [mantissa, exponent] = value.toExponential().split("e");
  const power = Number(exponent);
  if (power >= -4 && power < 6) return String(value);
  return `${mantissa}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

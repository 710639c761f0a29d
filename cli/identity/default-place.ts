/** Where a managed identity is made, and looked for, if nothing is said. */
export const DEFAULT_PLACE: { readonly resourceGroup: string; readonly subscription: string } = {
  resourceGroup: "sealpod",
  subscription: "00000000-0000-0000-0000-000000000000",
};

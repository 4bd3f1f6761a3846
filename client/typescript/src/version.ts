/** The version of this package, which the server is told. */
export const VERSION = "0.1.0";

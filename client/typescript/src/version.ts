/** The version of this package, which is part of the user agent. */
export const VERSION = "0.1.0";

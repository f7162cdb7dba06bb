/** Which client this is. */

/** The version of the package; a test holds it to package.json. */
export const PACKAGE_VERSION = '0.1.0';

/** What nodes note in their logs. */
export const PROGRAM = `batonq-ts/${PACKAGE_VERSION}`;

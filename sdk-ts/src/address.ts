/** Where the nodes are. */

import { BatonqError } from './error.js';

const PORT = 6789;
const ADDRESSES_MAX = 64;

/** One node: a host name or IP address, and a port. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** How a client is told where the nodes are: one by host and port, or any number by addresses. */
export interface Places {
  /** A host name or IP address; `127.0.0.1` unless given. */
  host?: string;
  /** 6789 unless given. */
  port?: number;
  /** `host:port`, `host`, `[::1]:port`, or a URL as `tcp://a:6789,b:6789`. Instead of host and port. */
  addresses?: string | readonly string[];
}

export function showAddress({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/**
 * Reads all addresses.
 *
 * @throws BatonqError `ADDRESS`
 */
export function readPlaces(places: Places): Address[] {
  const { host, port, addresses } = places;
  if (addresses === undefined) {
    return [checked(`${host ?? ''}:${port ?? ''}`, host ?? '127.0.0.1', port ?? PORT)];
  }
  if (host !== undefined || port !== undefined) {
    throw invalid(String(addresses), 'either host and port, or addresses');
  }
  const texts = typeof addresses === 'string' ? [addresses] : addresses;
  const all = texts.flatMap((text) => withoutScheme(text).split(',')).map(readAddress);
  if (all.length === 0) throw invalid('', 'no address');
  if (all.length > ADDRESSES_MAX) throw invalid('…', `more than ${ADDRESSES_MAX} addresses`);
  return all;
}

function withoutScheme(text: string): string {
  const [scheme, rest] = text.split('://', 2);
  if (rest === undefined) return text;
  if (scheme !== 'tcp') throw invalid(text, `${scheme} instead of tcp`);
  return rest.replace(/\/+$/, '');
}

function readAddress(text: string): Address {
  const trimmed = text.trim();
  const bracketed = /^\[([^\]]*)\](?::(.*))?$/.exec(trimmed);
  const plain = /^(.*):([^:]*)$/.exec(trimmed);
  const [host, port] = bracketed
    ? [bracketed[1], bracketed[2]]
    : plain
      ? [plain[1], plain[2]]
      : [trimmed, undefined];
  if (port !== undefined && !/^\d{1,5}$/.test(port)) throw invalid(text, 'no port number');
  return checked(text, host ?? '', port === undefined ? PORT : Number(port));
}

function checked(text: string, host: string, port: number): Address {
  if (host === '' || /[/@ [\]]/.test(host)) throw invalid(text, 'no host');
  if (!Number.isInteger(port) || port < 1 || port > 65535) throw invalid(text, 'no port number');
  return { host, port };
}

function invalid(text: string, reason: string): BatonqError {
  return new BatonqError('ADDRESS', `${JSON.stringify(text)}: ${reason}`);
}

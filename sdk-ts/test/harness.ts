/**
 * Brokers to test against: the real program, alone or as a cluster on a throw-away Postgres.
 *
 * `BATONQ_PROGRAM` says where the program is; without it, it is the newest debug build of this
 * repository, that of the Rust tests or that of the program itself.
 */

import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, openSync, rmSync, statSync, chownSync, chmodSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';

/** How long anything may take that takes no time. */
export const SOON_MS = 30_000;

const root = fileURLToPath(new URL('../../..', import.meta.url));

/** The repository. */
export function repository(...path: string[]): string {
  return join(root, ...path);
}

/** The program under test. Tests that can not find it fail, aloud. */
export function program(): string {
  const target = process.env['CARGO_TARGET_DIR'] ?? repository('target');
  const builds = ['batonq', 'batonq-under-test'].map((name) => join(target, 'debug', name)).filter(existsSync);
  builds.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
  const path = process.env['BATONQ_PROGRAM'] ?? builds[0];
  if (path !== undefined && existsSync(path)) return path;
  throw new Error(`no broker at ${path ?? target}: cargo build -p batonq, or say where it is by BATONQ_PROGRAM`);
}

const processes = new Set<ChildProcess>();
const directories = new Set<string>();
process.on('exit', () => {
  for (const child of processes) child.kill('SIGKILL');
  for (const path of directories) rmSync(path, { recursive: true, force: true });
});

// A test that failed may have left something open. What is open keeps this timer alive, nothing else does.
after(() => {
  setTimeout(() => {
    console.error('something is still open after the last test');
    process.exit(1);
  }, 10_000).unref();
});

function directory(): string {
  const path = mkdtempSync(join(tmpdir(), 'batonq-test-'));
  directories.add(path);
  return path;
}

function started(child: ChildProcess): ChildProcess {
  processes.add(child);
  child.once('exit', () => processes.delete(child));
  return child;
}

function exited(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => child.once('exit', () => resolve()));
}

export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}

/** Waits until something holds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + SOON_MS;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A running node. */
export class Node {
  #child!: ChildProcess;
  #log = '';
  port = 0;
  httpPort = 0;

  private constructor(private readonly environment: Readonly<Record<string, string>>) {}

  static async start(environment: Readonly<Record<string, string>> = {}): Promise<Node> {
    const node = new Node({ BATONQ_DATA_DIR: join(directory(), 'data'), ...environment });
    node.port = await freePort();
    node.httpPort = await freePort();
    await node.resume();
    return node;
  }

  /** Starts it again where it was: on its ports, with its data. */
  async resume(): Promise<void> {
    const clean = Object.entries(process.env).filter(
      ([name]) => !/^(BATONQ_.*|DATABASE_URL|CLUSTER_MODE|NODE_ID|PORT|HTTP|HTTP_PORT)$/.test(name),
    );
    const env = { ...Object.fromEntries(clean), ...this.environment };
    const ports = ['--port', String(this.port), '--http-port', String(this.httpPort)];
    this.#child = started(spawn(program(), ['serve', ...ports], { env, stdio: ['ignore', 'pipe', 'pipe'] }));
    this.#child.stderr?.on('data', (chunk: Buffer) => (this.#log += chunk.toString()));
    const { stdout } = this.#child;
    if (stdout === null) throw new Error('it is piped');
    const lines = createInterface({ input: stdout });
    await new Promise<void>((resolve, reject) => {
      lines.on('line', (line) => line.includes('tcp=') && resolve());
      this.#child.once('exit', () => reject(new Error(`the node did not start:\n${this.#log}`)));
    });
    await until('the node is ready', async () => (await this.health('/health/ready')) === 200);
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  get log(): string {
    return this.#log;
  }

  async health(path: string): Promise<number> {
    const answer = await fetch(`http://127.0.0.1:${this.httpPort}${path}`).catch(() => undefined);
    await answer?.arrayBuffer();
    return answer?.status ?? 0;
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.#child.kill(signal);
    await exited(this.#child);
  }
}

/** A database server of its own. */
export class Postgres {
  private constructor(
    private readonly child: ChildProcess,
    readonly port: number,
  ) {}

  static async start(): Promise<Postgres> {
    const user = serverUser();
    const home = directory();
    chmodSync(home, 0o755);
    if (user !== undefined) chownSync(home, user.uid, user.gid);
    const data = join(home, 'data');
    const as = { ...user, env: { ...process.env, LC_ALL: 'C' } };
    execFileSync(serverProgram('initdb'), ['-D', data, '-A', 'trust', '-U', 'postgres', '--no-sync', '-E', 'UTF8'], {
      ...as,
      stdio: 'ignore',
    });
    const port = await freePort();
    const settings = ['listen_addresses=127.0.0.1', 'max_connections=200', 'fsync=off', 'full_page_writes=off'];
    const flags = settings.flatMap((setting) => ['-c', setting]);
    const log = openSync(join(directory(), 'log'), 'w');
    const child = spawn(serverProgram('postgres'), ['-D', data, '-p', String(port), '-k', home, ...flags], {
      ...as,
      stdio: ['ignore', 'ignore', log],
    });
    const postgres = new Postgres(started(child), port);
    await until('Postgres accepts', () => postgres.#accepts());
    return postgres;
  }

  get dsn(): string {
    return `postgres://postgres@127.0.0.1:${this.port}/postgres`;
  }

  #accepts(): boolean {
    try {
      execFileSync(serverProgram('pg_isready'), ['-q', '-h', '127.0.0.1', '-p', String(this.port)]);
      return true;
    } catch {
      return false;
    }
  }

  async stop(): Promise<void> {
    // Quit at once: nobody needs what is in it.
    this.child.kill('SIGQUIT');
    await exited(this.child);
  }
}

/** The user to run the database server as: it refuses to be run by root. */
function serverUser(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const id = (flag: string): number => Number(execFileSync('id', [flag, 'postgres']).toString());
  return { uid: id('-u'), gid: id('-g') };
}

function serverProgram(name: string): string {
  const parent = '/usr/lib/postgresql';
  const versions = existsSync(parent) ? readdirSync(parent).sort((a, b) => Number(b) - Number(a)) : [];
  const places = versions.map((version) => join(parent, version, 'bin'));
  places.push(...(process.env['PATH'] ?? '').split(delimiter));
  const place = places.find((place) => existsSync(join(place, name)));
  if (place !== undefined) return join(place, name);
  throw new Error(`no Postgres server programs (${name}): install the package postgresql`);
}

/** Nodes that share a Postgres. */
export class Cluster {
  private constructor(
    private readonly postgres: Postgres,
    readonly nodes: readonly Node[],
  ) {}

  static async of(count: number): Promise<Cluster> {
    const postgres = await Postgres.start();
    const names = Array.from({ length: count }, (_, place) => `n${place + 1}`);
    const start = (name: string): Promise<Node> =>
      Node.start({ DATABASE_URL: postgres.dsn, CLUSTER_MODE: '1', NODE_ID: name });
    return new Cluster(postgres, await Promise.all(names.map(start)));
  }

  get addresses(): string[] {
    return this.nodes.map((node) => node.address);
  }

  /** The node of this name. */
  named(name: string): Node {
    const node = this.nodes[Number(name.slice(1)) - 1];
    if (node === undefined) throw new Error(`no node ${name}`);
    return node;
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.kill()));
    await this.postgres.stop();
  }
}

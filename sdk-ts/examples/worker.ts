/** A worker that ends its work in good order when it is told to stop. */

import { Failure, Worker } from 'batonq';

interface Resize {
  image: string;
  width: number;
}
interface Resized {
  url: string;
}

const worker = new Worker<Resize, Resized>(
  'resize',
  async (job) => {
    const { image, width } = job.data;
    if (width < 1) throw new Failure('NO_SUCH_WIDTH', `${width} pixels`, { reject: true });
    for (let percent = 25; percent <= 100; percent += 25) {
      job.signal.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, 10));
      await job.progress(percent);
    }
    return { url: `https://images.example.org/${width}/${image}` };
  },
  { addresses: process.env['BATONQ_URL'] ?? '127.0.0.1:6789', worker: 'resizer-1', concurrency: 5 },
);
worker.on('completed', (job, result) => console.log(`job ${job.id}: ${result.url}`));
worker.on('failed', (job, failure) => console.log(`job ${job.id}: ${failure.message}`));
worker.on('leaseLost', (job) => console.log(`job ${job.id}: somebody else has it now`));
worker.on('error', (error) => console.error(error.message));

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void worker.close());

//! What is in the queues, for those who ask often.
//!
//! Counting takes long where many finished jobs are kept, and there are clients that ask for it
//! only to know that somebody answers. So who asks meanwhile waits for the same answer, and one
//! that took long is given again for a while: counting takes a tenth of the time at most.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Broker;
use crate::error::Error;
use crate::store::Queue;

/// An answer that took no longer than this is made anew each time.
const CHEAP: Duration = Duration::from_millis(20);

/// An answer is given again for so many times as long as it took.
const SHARE: u32 = 10;

/// The last answer, and until when it is good enough.
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<Option<(Arc<[Queue]>, Instant)>>);

impl Broker {
    /// All queues by name, as they are or were a moment ago.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn queues_lately(&self) -> Result<Arc<[Queue]>, Error> {
        let mut last = self.0.core.lately.0.lock().await;
        let asked = Instant::now();
        if let Some((queues, _)) = last.as_ref().filter(|(_, until)| asked < *until) {
            return Ok(Arc::clone(queues));
        }
        let queues: Arc<[Queue]> = self.queues().await?.into();
        let took = asked.elapsed();
        *last = (took > CHEAP).then(|| (Arc::clone(&queues), asked + took * (SHARE + 1)));
        Ok(queues)
    }
}

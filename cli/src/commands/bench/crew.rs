//! Tasks that go on until they are told to stop.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;

/// Tasks of one kind. Dropping it ends them at once.
#[derive(Default)]
pub(super) struct Crew {
    tasks: JoinSet<Result<(), Failure>>,
    /// Tells them to finish what they have begun.
    pub(super) stop: CancellationToken,
}

impl Crew {
    pub(super) fn spawn(
        &mut self,
        task: impl Future<Output = Result<(), Failure>> + Send + 'static,
    ) {
        self.tasks.spawn(task);
    }

    /// Waits until one of them fails; forever if none does.
    pub(super) async fn failure(&mut self) -> Failure {
        while let Some(done) = self.tasks.join_next().await {
            if let Err(failure) = done.map_err(Failure::other).flatten() {
                return failure;
            }
        }
        std::future::pending().await
    }

    /// Waits until all have finished.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.stop.cancel();
        while let Some(done) = self.tasks.join_next().await {
            done.map_err(Failure::other)??;
        }
        Ok(())
    }
}

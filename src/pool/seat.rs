//! A stream to a server and its place among the host's connections, which is given back when the server has closed its end:
//! not when we have closed ours, since its process is there for a moment longer.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::budget::{Budget, Place};
use super::places::Purpose;
use super::queue::Pool;
use crate::config::HostConfig;
use crate::net::Stream;
use crate::server::{ConnectError, Login, connect};

/// For the server to close its end. What runs there goes on in spite of it.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module's page.
#[derive(Debug)]
pub struct Seat {
    /// Until it is dropped.
    taken: Option<(Stream, Place)>,
}

impl Seat {
    pub(super) fn new(stream: Stream, place: Place) -> Self {
        Self { taken: Some((stream, place)) }
    }

    /// Somebody lacks a place, and this one, if it is for errands, is to be let go where there is none to do.
    pub fn is_wanted_back(&self) -> bool {
        self.taken.as_ref().is_some_and(|(_, place)| place.budget().wants_errands_back())
    }

    /// Returns when that is so. Cancel safe.
    pub async fn wanted_back(&self) {
        if let Some((_, place)) = &self.taken {
            place.budget().errands_wanted_back().await;
        }
    }
}

const TAKEN: &str = "a seat has its stream until it is dropped";

impl Deref for Seat {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.taken.as_ref().expect(TAKEN).0
    }
}

impl DerefMut for Seat {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.taken.as_mut().expect(TAKEN).0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((mut stream, mut place)) = self.taken.take() else { return };
        // Where there is no limit nobody waits for it.
        let Some(runtime) = place.leaves().then(Handle::try_current).and_then(Result::ok) else { return };
        runtime.spawn(async move {
            let closed = async {
                // It may be gone already.
                let _ = stream.shutdown().await;
                let _ = copy(&mut stream, &mut sink()).await;
            };
            let _ = timeout(PATIENCE, closed).await;
            drop((stream, place));
        });
    }
}

/// A connection of pgweir's own, logged in.
#[derive(Debug)]
pub struct Seated {
    pub stream: Seat,
    /// The backend's process id and its cancel key.
    pub pid: i32,
    pub key: Vec<u8>,
    /// What ParameterStatus reported, in order.
    pub parameters: Vec<(String, String)>,
}

impl Place {
    /// Connects within `time`.
    pub async fn connect(self, host: &HostConfig, login: &Login, time: Duration) -> Result<Seated, ConnectError> {
        let connected = connect(host, login, time).await?;
        let stream = Seat::new(connected.stream, self);
        Ok(Seated { stream, pid: connected.pid, key: connected.key, parameters: connected.parameters })
    }
}

impl Budget {
    /// A place, if there is one within `patience`; else [`ConnectError::NoPlace`].
    pub async fn place_within(
        self: &Arc<Self>,
        purpose: Purpose,
        host: &HostConfig,
        patience: Duration,
    ) -> Result<Place, ConnectError> {
        let limit = self.most().unwrap_or(usize::MAX);
        let no_place = |_| ConnectError::NoPlace { host: host.name.clone(), limit, after: patience };
        timeout(patience, self.ask(purpose)).await.map_err(no_place)
    }

    /// Waits for a place, and connects, for as long as `time` each.
    pub async fn connect(
        self: &Arc<Self>,
        purpose: Purpose,
        host: &HostConfig,
        login: &Login,
        time: Duration,
    ) -> Result<Seated, ConnectError> {
        self.place_within(purpose, host, time).await?.connect(host, login, time).await
    }
}

impl Pool {
    /// For connections to its host that are none of the pool's.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::super::budget::Budgets;
    use super::*;
    use crate::config::HostAddress;

    #[tokio::test]
    async fn a_place_is_given_back_when_the_server_has_closed_its_end() {
        let (address, budgets) = (HostAddress::Unix("/db".into()), Budgets::default());
        let budget = budgets.of(&address);
        budgets.limit([(&address, Some(4))]);
        for silent in [false, true] {
            let (ours, mut server) = UnixStream::pair().unwrap();
            let place = budget.ask(Purpose::Errand).await;
            drop(Seat::new(Stream::Unix(ours), place));
            assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "it is told");
            tokio::task::yield_now().await;
            assert_eq!(budget.open(), 1);
            // One that does not close it is not waited for.
            let _kept = silent.then_some(server);
            let given_back = async {
                while budget.open() > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(20), given_back).await.unwrap();
        }
    }
}

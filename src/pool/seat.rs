//! A stream to a server and its place among the host's connections, which is given back when the server has closed its end:
//! not when we have closed ours, since its process is there for a moment longer. One that has been given up before it was
//! logged in may yet get its process, and keeps its place for that moment, too.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::budget::{Budget, Place};
use super::places::Purpose;
use super::queue::Pool;
use crate::config::HostConfig;
use crate::net::Stream;
use crate::server::connect::Connected;
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
        let Some(runtime) = place.leaves_later() else { return };
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

/// The place of a connection that is being opened. When that is given up the server may begin a process for it all the same.
#[derive(Debug)]
struct Opening(Option<Place>);

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(mut place) = self.0.take() else { return };
        let Some(runtime) = place.leaves_later() else { return };
        runtime.spawn(async move {
            sleep(PATIENCE).await;
            drop(place);
        });
    }
}

/// A connection that is logged in, with its place.
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
        let mut opening = Opening(Some(self));
        match connect(host, login, time).await {
            Ok(Connected { stream, pid, key, parameters }) => {
                let stream = Seat { taken: opening.0.take().map(|place| (stream, place)) };
                Ok(Seated { stream, pid, key, parameters })
            }
            Err(error) => {
                if error.leaves_nothing() {
                    drop(opening.0.take());
                }
                Err(error)
            }
        }
    }

    /// Its connection is being closed: who sees to the rest. Where there is no limit nobody waits for it.
    fn leaves_later(&mut self) -> Option<Handle> {
        self.leaves().then(Handle::try_current).and_then(Result::ok)
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
    use bytes::BytesMut;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, UnixStream};
    use tokio::sync::oneshot;

    use super::super::budget::Budgets;
    use super::*;
    use crate::config::{HostAddress, ServerTls, SslMode};
    use crate::wire::error::PgError;

    /// A host with few connections.
    struct Few {
        host: HostConfig,
        budget: Arc<Budget>,
    }

    impl Few {
        fn at(listener: &TcpListener) -> Self {
            let port = listener.local_addr().unwrap().port();
            let address = HostAddress::Tcp { host: "127.0.0.1".to_owned(), port };
            let budgets = Budgets::default();
            let budget = budgets.of(&address);
            budgets.limit([(&address, Some(4))]);
            let tls = ServerTls { mode: SslMode::Disable, root_cert: None, cert: None, key: None };
            Self { host: HostConfig { name: "db".to_owned(), address, tls, max_server_connections: None }, budget }
        }

        async fn fails(&self, time: Duration) -> ConnectError {
            let (user, database, parameters) = ("u".to_owned(), "d".to_owned(), Vec::new());
            let login = Login { user, database, password: None, scram_keys: None, parameters };
            let place = self.budget.ask(Purpose::Errand).await;
            place.connect(&self.host, &login, time).await.unwrap_err()
        }

        async fn has_its_places_back(&self) {
            let given_back = async {
                while self.budget.open() > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(20), given_back).await.unwrap();
        }
    }

    /// It may begin a process for a connection all the same.
    #[tokio::test]
    async fn a_place_is_kept_for_a_moment_where_the_server_has_not_answered() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let few = Few::at(&silent);
        let error = few.fails(Duration::from_millis(50)).await;
        assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
        assert_eq!(few.budget.open(), 1);
        few.has_its_places_back().await;
        // Nor does it know that nobody is interested any more.
        assert!(timeout(Duration::from_millis(50), few.fails(Duration::from_secs(20))).await.is_err());
        assert_eq!(few.budget.open(), 1);
        few.has_its_places_back().await;
        // Nobody is there.
        drop(silent);
        let error = few.fails(Duration::from_secs(20)).await;
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
        assert_eq!(few.budget.open(), 0);
    }

    #[tokio::test]
    async fn a_login_that_is_refused_is_over_when_the_server_has_closed_its_end() {
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let few = Few::at(&refusing);
        let (close, closes) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let (mut stream, _) = refusing.accept().await.unwrap();
            let mut refusal = BytesMut::new();
            PgError::fatal("3D000", "no such database").encode(&mut refusal);
            assert!(stream.read(&mut [0; 1000]).await.unwrap() > 0);
            stream.write_all(&refusal).await.unwrap();
            closes.await.unwrap();
        });
        let mut fails = std::pin::pin!(few.fails(Duration::from_secs(20)));
        assert!(timeout(Duration::from_millis(200), &mut fails).await.is_err());
        assert_eq!(few.budget.open(), 1);
        close.send(()).unwrap();
        let error = fails.await;
        assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
        assert_eq!(few.budget.open(), 0);
    }

    #[tokio::test]
    async fn a_place_is_given_back_when_the_server_has_closed_its_end() {
        let (address, budgets) = (HostAddress::Unix("/db".into()), Budgets::default());
        let budget = budgets.of(&address);
        budgets.limit([(&address, Some(4))]);
        for silent in [false, true] {
            let (ours, mut server) = UnixStream::pair().unwrap();
            let place = budget.ask(Purpose::Errand).await;
            drop(Seat { taken: Some((Stream::Unix(ours), place)) });
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

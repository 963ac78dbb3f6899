//! A TCP port that stays ours, whether or not a server listens on it at the moment.

use std::net::{Ipv4Addr, SocketAddrV4};

use socket2::{Domain, Socket, Type};

use super::error::{Doing, SandboxError};

/// A port of 127.0.0.1 that nobody else is given while this value lives.
///
/// It is a bound socket that never listens. With `SO_REUSEADDR` on both sides Linux lets a server of
/// ours (PostgreSQL sets it) listen on the same port, while the kernel hands the port to no
/// `bind` to port 0 and to no outgoing connection of any other process. So there is no moment
/// between choosing a port and listening on it in which it can be lost, and a server that is
/// stopped finds its port free again. Until a server listens, connecting is refused.
#[derive(Debug)]
pub struct ReservedPort {
    port: u16,
    /// Held for its binding only; closed on exec, so that no child keeps it.
    _binding: Socket,
}

impl ReservedPort {
    /// Reserves a free port.
    pub fn new() -> Result<Self, SandboxError> {
        let reserve = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
            let address = socket.local_addr()?;
            let port = address.as_socket().map_or(0, |address| address.port());
            Ok::<_, std::io::Error>(Self { port, _binding: socket })
        };
        reserve().doing(|| "reserve a TCP port of 127.0.0.1".to_owned())
    }

    pub fn get(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_reserved_port_refuses_until_one_who_shares_it_listens() {
        let port = ReservedPort::new().unwrap();
        let address = (Ipv4Addr::LOCALHOST, port.get());
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);

        // The standard library sets SO_REUSEADDR on listeners, as PostgreSQL does.
        let first = TcpListener::bind(address).unwrap();
        TcpStream::connect(address).unwrap();
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(first);
        TcpListener::bind(address).unwrap();
    }
}

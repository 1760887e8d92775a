//! Addresses on which connections fail: refused, or neither accepted nor refused.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};
#[cfg(target_os = "linux")]
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Port that is bound but not listening: connections are refused and no other process can take it.
#[derive(Debug)]
pub struct ReservedPort(Socket);

impl ReservedPort {
    /// Binds a free port.
    pub fn bind() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("create a socket");
        socket.bind(&SocketAddr::from((unused_loopback(), 0)).into()).expect("bind a port");
        Self(socket)
    }

    /// Returns the address.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    /// Returns the base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Frees the port for a process that will listen on it.
    pub fn release(self) -> SocketAddr {
        self.address()
    }

    /// Starts listening.
    pub fn listen(self) -> TcpListener {
        self.0.listen(128).expect("listen");
        self.0.into()
    }
}

/// Returns a loopback address that no other test uses, so that the port cannot be taken between uses.
/// Falls back to 127.0.0.1 on systems where only that address is assigned to the loopback interface.
fn unused_loopback() -> [u8; 4] {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    if cfg!(target_os = "linux") {
        let [.., high, low] = std::process::id().to_be_bytes();
        [127, high | 0x80, low, COUNT.fetch_add(1, Ordering::Relaxed)]
    } else {
        [127, 0, 0, 1]
    }
}

/// Returns the address of a listener whose backlog is full, so that connections to it are neither
/// accepted nor refused. The backlog stays full until the returned sockets are dropped.
#[cfg(target_os = "linux")]
pub fn listener_with_full_backlog() -> (SocketAddr, Vec<Socket>) {
    let ReservedPort(listener) = ReservedPort::bind();
    listener.listen(0).expect("listen");
    let address = listener.local_addr().unwrap();
    let mut sockets = vec![listener];
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let connected = socket.connect_timeout(&address, Duration::from_millis(200));
        sockets.push(socket);
        if connected.is_err() {
            return (address.as_socket().unwrap(), sockets);
        }
        assert!(sockets.len() < 16, "the backlog does not fill");
    }
}

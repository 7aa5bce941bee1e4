//! Where a service listens and a client asks: a transport, its URL, and their options.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use nestrs_microservices::{
    ClientProxy, MicroserviceHandler, MicroserviceServer, NatsMicroserviceOptions,
    NatsMicroserviceServer, NatsTransport, NatsTransportOptions, RabbitMqMicroserviceOptions,
    RabbitMqMicroserviceServer, RabbitMqTransport, RabbitMqTransportOptions,
    RedisMicroserviceOptions, RedisMicroserviceServer, RedisTransport, RedisTransportOptions,
    TcpMicroserviceOptions, TcpMicroserviceServer, TcpTransport, TcpTransportOptions, Transport,
};

pub const TRANSPORTS: [&str; 4] = ["tcp", "nats", "redis", "rmq"];

pub struct Place {
    pub transport: String,
    pub url: String,
    pub queue: String,
    pub prefix: Option<String>,
}

impl Place {
    pub fn new(transport: String, url: String) -> Result<Self, String> {
        if !TRANSPORTS.contains(&transport.as_str()) {
            return Err(format!("{transport} is none of {TRANSPORTS:?}"));
        }
        let queue = "nestrs.micro".to_string(); // nestrs's own default
        Ok(Self {
            transport,
            url,
            queue,
            prefix: None,
        })
    }

    pub fn server(
        &self,
        handlers: Vec<Arc<dyn MicroserviceHandler>>,
    ) -> Result<Box<dyn MicroserviceServer>, String> {
        Ok(match self.transport.as_str() {
            "tcp" => {
                let options = TcpMicroserviceOptions::new(self.address()?);
                Box::new(TcpMicroserviceServer::new(options, handlers))
            }
            "nats" => {
                let mut options = NatsMicroserviceOptions::new(&self.url);
                options.prefix = self.prefix.clone();
                Box::new(NatsMicroserviceServer::new(options, handlers))
            }
            "redis" => {
                let mut options = RedisMicroserviceOptions::new(&self.url);
                options.prefix = self.prefix.clone();
                Box::new(RedisMicroserviceServer::new(options, handlers))
            }
            _ => {
                let options = RabbitMqMicroserviceOptions::new(&self.url);
                let options = options.with_work_queue(&self.queue);
                Box::new(RabbitMqMicroserviceServer::new(options, handlers))
            }
        })
    }

    /// A client; TCP's has no time limit of its own.
    pub fn client(&self, patience: Duration) -> Result<ClientProxy, String> {
        let transport: Arc<dyn Transport> = match self.transport.as_str() {
            "tcp" => Arc::new(TcpTransport::new(TcpTransportOptions::new(self.address()?))),
            "nats" => {
                let mut options = NatsTransportOptions::new(&self.url);
                options.prefix = self.prefix.clone();
                options.request_timeout = patience;
                Arc::new(NatsTransport::new(options))
            }
            "redis" => {
                let mut options = RedisTransportOptions::new(&self.url);
                options.prefix = self.prefix.clone();
                options.request_timeout = patience;
                Arc::new(RedisTransport::new(options))
            }
            _ => {
                let options = RabbitMqTransportOptions::new(&self.url);
                let options = options.with_work_queue(&self.queue);
                Arc::new(RabbitMqTransport::new(
                    options.with_request_timeout(patience),
                ))
            }
        };
        Ok(ClientProxy::new(transport))
    }

    fn address(&self) -> Result<SocketAddr, String> {
        let why = || format!("{} is no tcp://HOST:PORT", self.url);
        let place = self.url.strip_prefix("tcp://").ok_or_else(why)?;
        let mut found = place.to_socket_addrs().map_err(|_| why())?;
        found.next().ok_or_else(why)
    }
}

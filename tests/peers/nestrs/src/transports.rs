//! Where a service listens and a client asks: a transport, its URL, and their options.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use nestrs_microservices::{
    ClientProxy, GrpcMicroserviceOptions, GrpcMicroserviceServer, GrpcTransport,
    GrpcTransportOptions, KafkaMicroserviceOptions, KafkaMicroserviceServer, KafkaTransport,
    KafkaTransportOptions, MicroserviceHandler, MicroserviceServer, MqttMicroserviceOptions,
    MqttMicroserviceServer, MqttTransport, MqttTransportOptions, NatsMicroserviceOptions,
    NatsMicroserviceServer, NatsTransport, NatsTransportOptions, RabbitMqMicroserviceOptions,
    RabbitMqMicroserviceServer, RabbitMqTransport, RabbitMqTransportOptions,
    RedisMicroserviceOptions, RedisMicroserviceServer, RedisTransport, RedisTransportOptions,
    TcpMicroserviceOptions, TcpMicroserviceServer, TcpTransport, TcpTransportOptions, Transport,
};

pub const TRANSPORTS: [&str; 7] = ["tcp", "nats", "redis", "rmq", "kafka", "mqtt", "grpc"];

pub struct Place {
    pub transport: String,
    pub url: String,
    pub queue: String,
    pub prefix: Option<String>,
}

/// The longest packet that rumqttc takes unless it is told otherwise, which nestrs does not:
/// a longer one ends its client or server for good.
const MQTT_PACKET: usize = 10 * 1024;

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
            "kafka" => {
                let mut options = KafkaMicroserviceOptions::new(vec![self.host_and_port()?.into()]);
                if let Some(prefix) = &self.prefix {
                    options.topic_prefix = prefix.clone();
                }
                Box::new(KafkaMicroserviceServer::new(options, handlers))
            }
            "mqtt" => {
                let address = self.address()?;
                let mut options =
                    MqttMicroserviceOptions::new(address.ip().to_string(), address.port());
                if let Some(prefix) = &self.prefix {
                    options.topic_prefix = prefix.clone();
                }
                Box::new(MqttMicroserviceServer::new(options, handlers))
            }
            "grpc" => {
                let options = GrpcMicroserviceOptions::new(self.address()?);
                Box::new(GrpcMicroserviceServer::new(options, handlers))
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
            "kafka" => {
                let mut options = KafkaTransportOptions::new(vec![self.host_and_port()?.into()]);
                options.request_timeout = patience;
                if let Some(prefix) = &self.prefix {
                    options.topic_prefix = prefix.clone();
                }
                Arc::new(KafkaTransport::new(options))
            }
            "mqtt" => {
                let address = self.address()?;
                let mut options =
                    MqttTransportOptions::new(address.ip().to_string(), address.port());
                options.request_timeout = patience;
                if let Some(prefix) = &self.prefix {
                    options.topic_prefix = prefix.clone();
                }
                Arc::new(MqttTransport::new(options))
            }
            "grpc" => {
                let endpoint = format!("http://{}", self.host_and_port()?);
                let options = GrpcTransportOptions::new(endpoint).with_request_timeout(patience);
                Arc::new(GrpcTransport::new(options))
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

    /// Whether a value of that many bytes can cross there.
    pub fn carries(&self, size: usize) -> bool {
        self.transport != "mqtt" || size < MQTT_PACKET
    }

    /// Whether one call takes nestrs 50 ms and more: it polls Kafka, and lets MQTT's packets
    /// wait for TCP's delayed acknowledgements.
    pub fn is_slow(&self) -> bool {
        ["kafka", "mqtt"].contains(&self.transport.as_str())
    }

    fn address(&self) -> Result<SocketAddr, String> {
        let place = self.host_and_port()?;
        let mut found = place.to_socket_addrs().map_err(|_| self.no_address())?;
        found.next().ok_or_else(|| self.no_address())
    }

    fn host_and_port(&self) -> Result<&str, String> {
        let place = self.url.strip_prefix(&format!("{}://", self.transport));
        place
            .map(|place| place.trim_end_matches('/'))
            .ok_or_else(|| self.no_address())
    }

    fn no_address(&self) -> String {
        format!("{} is no {}://HOST:PORT", self.url, self.transport)
    }
}

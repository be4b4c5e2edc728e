//! The baseline of the measurements: a tonic service on a unix socket that does nothing, as a separate process.

use std::path::Path;
use std::pin::Pin;
use std::process::Command;

use simple_device_plugin::api::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use simple_device_plugin::api::v1beta1::{
    AllocateRequest, AllocateResponse, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse,
};
use tokio::net::UnixListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::Result;
use crate::program::MeasuredProgram;

/// With this argument, the benchmark program runs the empty service.
pub const COMMAND: &str = "empty-service";

/// Starts a process that runs the empty service on this socket.
pub fn start(socket: &Path) -> Result<MeasuredProgram> {
    let mut command = Command::new(std::env::current_exe()?);
    MeasuredProgram::start(command.arg(COMMAND).arg(socket))
}

/// Runs the empty service.
pub async fn serve(socket: &str) -> Result<()> {
    let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
    let mut server = Server::builder();
    let served = server.add_service(DevicePluginServer::new(EmptyService));
    Ok(served.serve_with_incoming(incoming).await?)
}

struct EmptyService;

#[tonic::async_trait]
impl DevicePlugin for EmptyService {
    type ListAndWatchStream =
        Pin<Box<dyn Stream<Item = std::result::Result<ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> std::result::Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(
        &self,
        _: Request<Empty>,
    ) -> std::result::Result<Response<Self::ListAndWatchStream>, Status> {
        Err(Status::unimplemented("the empty service has no devices"))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> std::result::Result<Response<PreferredAllocationResponse>, Status> {
        Ok(Response::new(PreferredAllocationResponse::default()))
    }

    async fn allocate(
        &self,
        _: Request<AllocateRequest>,
    ) -> std::result::Result<Response<AllocateResponse>, Status> {
        Ok(Response::new(AllocateResponse::default()))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> std::result::Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse::default()))
    }
}

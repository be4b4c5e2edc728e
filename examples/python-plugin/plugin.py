"""A device plugin in one file. It needs grpcio and grpcio-tools, and api.proto beside it or in PROTO_DIR."""

import os
import sys
import time
from concurrent import futures

import grpc

sys.path.append(os.environ.get("PROTO_DIR", os.path.dirname(os.path.abspath(__file__))))
api, services = grpc.protos_and_services("api.proto")

DIR = os.environ.get("DEVICE_PLUGIN_PATH", "/var/lib/kubelet/device-plugins")
ENDPOINT, RESOURCE, IDS = "python.sock", "example.com/python", ["py-0", "py-1"]
KUBELET = os.path.join(DIR, "kubelet.sock")


class Plugin(services.DevicePluginServicer):
    def GetDevicePluginOptions(self, request, context):
        return api.DevicePluginOptions()

    def ListAndWatch(self, request, context):
        yield api.ListAndWatchResponse(devices=[api.Device(ID=i, health="Healthy") for i in IDS])
        while context.is_active():
            time.sleep(1)

    def Allocate(self, request, context):
        envs = [{"PY_DEVICES": ",".join(c.devices_ids)} for c in request.container_requests]
        return api.AllocateResponse(container_responses=[api.ContainerAllocateResponse(envs=e) for e in envs])


def kubelet():
    """Identifies the kubelet's socket; None if there is none."""
    return os.stat(KUBELET).st_ctime_ns if os.path.exists(KUBELET) else None


while True:
    started_for = kubelet()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    services.add_DevicePluginServicer_to_server(Plugin(), server)
    server.add_insecure_port(f"unix://{DIR}/{ENDPOINT}")
    server.start()
    try:
        with grpc.insecure_channel(f"unix://{KUBELET}") as channel:
            request = api.RegisterRequest(version="v1beta1", endpoint=ENDPOINT, resource_name=RESOURCE)
            services.RegistrationStub(channel).Register(request, timeout=15)
        while kubelet() == started_for:
            time.sleep(0.5)
    except grpc.RpcError as error:
        print("cannot register:", error.details(), flush=True)
        time.sleep(1)
    server.stop(0).wait()

"""A stranger from Python: finds the services by gRPC reflection and asks for the status, without any generated code.

Usage: python3 client.py META_ADDRESS. Needs grpcio and grpcio-reflection; exits 0 when the cluster answered.
"""

import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
services = list(database.get_services())
assert "holdfast.v1.Meta" in services, services
assert "grpc.health.v1.Health" in services, services

pool = descriptor_pool.DescriptorPool(database)
method = pool.FindServiceByName("holdfast.v1.Meta").FindMethodByName("Status")
request = message_factory.GetMessageClass(method.input_type)
reply = message_factory.GetMessageClass(method.output_type)
status = channel.unary_unary(
    "/holdfast.v1.Meta/Status",
    request_serializer=request.SerializeToString,
    response_deserializer=reply.FromString,
)(request(), timeout=10)
assert status.cluster_id, status
print("ok", status.verdict)

"""What runners call: msgpack over HTTP (`dstack.protocol.messages`)."""

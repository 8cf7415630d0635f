"""Commands about who may use the servers, and about what they did."""

"""What every kind of export needs. Imports no other package of `converters`."""

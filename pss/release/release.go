// Package release says which release of the product this is.
package release

// Version is what the storage service's programs print and what servers tell each other.
const Version = "2.0.0"

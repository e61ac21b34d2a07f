package mgmt

import (
	"fmt"
	"strconv"
)

// Where the socket is.
const (
	DefaultBase    = "/var/run/tgtd/socket" // base name of the sockets
	BaseEnv        = "TGT_IPC_SOCKET"       // environment variable with another base name
	MaxPath        = 107                    // bytes of a path that fits into a socket's address
	MaxControlPort = 32767
)

// SocketPath returns the path of the management socket of a control port: BASE.PORT, where BASE is
// the value of TGT_IPC_SOCKET, if that is set, or /var/run/tgtd/socket. With a path that is too
// long for a socket's address it returns the path and ErrPathTooLong.
func SocketPath(lookupEnv func(string) (string, bool), port int) (string, error) {
	base, ok := lookupEnv(BaseEnv)
	if !ok {
		base = DefaultBase
	}
	path := base + "." + strconv.Itoa(port)
	if len(path) > MaxPath {
		return path, fmt.Errorf("%w: %s", ErrPathTooLong, path)
	}
	return path, nil
}

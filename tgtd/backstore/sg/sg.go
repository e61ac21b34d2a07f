// Package sg is the backing store of passthrough units: a real SCSI device, reached through the kernel's generic
// drivers. The type sg takes /dev/sg* (SG_IO version 3), the type bsg takes /dev/bsg/* (version 4). A command goes
// to the device as it came from the initiator, and its status, sense data and data come back.
package sg

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// The types' names for tgtadm --bstype.
const (
	Name      = "sg"
	BlockName = "bsg"
)

const (
	// commandTimeout is how long a device may take for a command, in milliseconds: long enough for a tape to
	// rewind. The unit can't be closed while one is under way.
	commandTimeout = 15 * 60 * 1000
	// maxSense is the room for sense data, in bytes (SPC-4).
	maxSense = 252
)

// Requests of ioctl(2), of <scsi/sg.h>.
const (
	ioctlVersion = 0x2282 // SG_GET_VERSION_NUM
	ioctlSubmit  = 0x2285 // SG_IO
	minVersion   = 30000  // the first with SG_IO
)

// Type returns the store type sg for a backstore.Registry.
func Type() backstore.Type {
	return backstore.Type{Name: Name, Open: func(o backstore.Options) (backstore.Store, error) { return open(o, false) }}
}

// BlockType returns the store type bsg.
func BlockType() backstore.Type {
	return backstore.Type{Name: BlockName, Open: func(o backstore.Options) (backstore.Store, error) { return open(o, true) }}
}

// device is an open generic device.
type device struct {
	path string
	fd   int
	v4   bool
	// ioctl is the system's; tests put a device of their own there.
	ioctl func(fd int, request uint, p unsafe.Pointer) error
}

var _ backstore.Device = (*device)(nil)

// open opens a generic device. It takes neither options nor flags, refused with backstore.ErrOption as is
// everything that is no generic device.
func open(o backstore.Options, v4 bool) (backstore.Store, error) {
	name := Name
	if v4 {
		name = BlockName
	}
	fail := func(err error) (backstore.Store, error) {
		return nil, fmt.Errorf("open %q as a device of type %s: %w", o.Path, name, err)
	}
	if o.Options != "" || o.Sync || o.Direct {
		return fail(fmt.Errorf("%w: it takes neither options nor flags", backstore.ErrOption))
	}
	var st unix.Stat_t
	if err := unix.Stat(o.Path, &st); err != nil {
		return fail(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return fail(fmt.Errorf("%w: no character device of the kernel's generic SCSI driver", backstore.ErrOption))
	}
	fd, err := unix.Open(o.Path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	if version, err := unix.IoctlGetInt(fd, ioctlVersion); err != nil || version < minVersion {
		unix.Close(fd)
		return fail(fmt.Errorf("%w: the driver does not know SG_IO (version %d, %w)", backstore.ErrOption, version,
			errors.Join(err)))
	}
	return &device{path: o.Path, fd: fd, v4: v4, ioctl: ioctl}, nil
}

func ioctl(fd int, request uint, p unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(p)); errno != 0 {
		return errno
	}
	return nil
}

// Submit implements backstore.Store; a device has no blocks to offer here.
func (d *device) Submit(io *backstore.IO) {
	io.Err = fmt.Errorf("%q takes commands: %w", d.path, errors.ErrUnsupported)
	io.Done(io)
}

// Info implements backstore.Store. The size is the device's own business.
func (d *device) Info() backstore.Info { return backstore.Info{} }

// Close implements backstore.Store.
func (d *device) Close() error {
	if err := unix.Close(d.fd); err != nil {
		return fmt.Errorf("close %q: %w", d.path, err)
	}
	return nil
}

// Execute implements backstore.Device. A command whose fate is unknown is never sent again.
func (d *device) Execute(c *backstore.DeviceCommand) error {
	if len(c.CDB) == 0 || len(c.CDB) > 252 || len(c.In) > 0 && len(c.Out) > 0 {
		return fmt.Errorf("%q: a command of %d bytes with data in both directions or none: %w", d.path, len(c.CDB),
			errors.ErrUnsupported)
	}
	sense := make([]byte, maxSense)
	var pins runtime.Pinner
	defer pins.Unpin()
	address := func(b []byte) uintptr {
		if len(b) == 0 {
			return 0
		}
		p := unsafe.SliceData(b)
		pins.Pin(p)
		return uintptr(unsafe.Pointer(p))
	}
	var err error
	if d.v4 {
		err = d.executeV4(c, sense, address)
	} else {
		err = d.executeV3(c, sense, address)
	}
	if err != nil {
		return fmt.Errorf("%q, operation code %#02x: %w", d.path, c.CDB[0], err)
	}
	return nil
}

// headerV3 is struct sg_io_hdr.
type headerV3 struct {
	interfaceID  int32
	direction    int32
	cdbLen       uint8
	maxSense     uint8
	vectors      uint16
	dataLen      uint32
	data         uintptr
	cdb          uintptr
	sense        uintptr
	timeout      uint32
	flags        uint32
	packID       int32
	user         uintptr
	status       uint8
	masked       uint8
	message      uint8
	senseLen     uint8
	hostStatus   uint16
	driverStatus uint16
	residual     int32
	duration     uint32
	info         uint32
}

// Values of headerV3.
const (
	interfaceV3   = 'S'
	directionNone = -1
	directionOut  = -2
	directionIn   = -3
	driverSense   = 0x08 // sense data is there; no failure
)

func (d *device) executeV3(c *backstore.DeviceCommand, sense []byte, address func([]byte) uintptr) error {
	h := &headerV3{
		interfaceID: interfaceV3, direction: directionNone, cdbLen: uint8(len(c.CDB)), maxSense: uint8(len(sense)),
		cdb: address(c.CDB), sense: address(sense), timeout: commandTimeout,
	}
	data := c.In
	switch {
	case len(c.In) > 0:
		h.direction = directionIn
	case len(c.Out) > 0:
		h.direction, data = directionOut, c.Out
	}
	h.data, h.dataLen = address(data), uint32(len(data))
	if err := d.ioctl(d.fd, ioctlSubmit, unsafe.Pointer(h)); err != nil {
		return fmt.Errorf("SG_IO: %w", err)
	}
	if h.hostStatus != 0 || h.driverStatus&^driverSense != 0 {
		return fmt.Errorf("SG_IO: host status %#x, driver status %#x", h.hostStatus, h.driverStatus)
	}
	c.Status, c.Moved = h.status, moved(len(data), h.residual)
	c.Sense = trimSense(sense, int(h.senseLen))
	return nil
}

// headerV4 is struct sg_io_v4.
type headerV4 struct {
	guard           int32
	protocol        uint32
	subprotocol     uint32
	requestLen      uint32
	request         uint64
	requestTag      uint64
	requestAttr     uint32
	requestPriority uint32
	requestExtra    uint32
	maxResponseLen  uint32
	response        uint64
	outVectors      uint32
	outLen          uint32
	inVectors       uint32
	inLen           uint32
	out             uint64
	in              uint64
	timeout         uint32
	flags           uint32
	user            uint64
	spareIn         uint32
	driverStatus    uint32
	transportStatus uint32
	deviceStatus    uint32
	retryDelay      uint32
	info            uint32
	duration        uint32
	responseLen     uint32
	inResidual      int32
	outResidual     int32
	generatedTag    uint64
	spareOut        uint32
	padding         uint32
}

const guardV4 = 'Q'

func (d *device) executeV4(c *backstore.DeviceCommand, sense []byte, address func([]byte) uintptr) error {
	h := &headerV4{
		guard: guardV4, requestLen: uint32(len(c.CDB)), request: uint64(address(c.CDB)),
		maxResponseLen: uint32(len(sense)), response: uint64(address(sense)),
		outLen: uint32(len(c.Out)), out: uint64(address(c.Out)),
		inLen: uint32(len(c.In)), in: uint64(address(c.In)), timeout: commandTimeout,
	}
	if err := d.ioctl(d.fd, ioctlSubmit, unsafe.Pointer(h)); err != nil {
		return fmt.Errorf("SG_IO: %w", err)
	}
	if h.transportStatus != 0 || h.driverStatus&^driverSense != 0 {
		return fmt.Errorf("SG_IO: transport status %#x, driver status %#x", h.transportStatus, h.driverStatus)
	}
	c.Status, c.Moved = uint8(h.deviceStatus), moved(len(c.In), h.inResidual)
	if len(c.Out) > 0 {
		c.Moved = moved(len(c.Out), h.outResidual)
	}
	c.Sense = trimSense(sense, int(h.responseLen))
	return nil
}

// moved is what was transferred of n bytes; what a driver says beyond reason is cut.
func moved(n int, residual int32) int {
	return min(max(n-int(residual), 0), n)
}

// trimSense cuts the sense data; nil when there is none.
func trimSense(sense []byte, n int) []byte {
	if n <= 0 {
		return nil
	}
	return sense[:min(n, len(sense))]
}

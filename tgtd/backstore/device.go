package backstore

// Device is a store that is a SCSI device itself: commands go to it as they come.
type Device interface {
	Store
	// Execute has the device carry out a command and waits for it. An error means that the command did not
	// get there or that it is not known what came of it; a status of the device is none.
	Execute(*DeviceCommand) error
}

// DeviceCommand is a command for a Device.
type DeviceCommand struct {
	CDB []byte
	Out []byte // data to the device; nil if In is not
	In  []byte // room for data from the device

	// Set by Execute.
	Status byte   // SAM-5 5.3.1
	Sense  []byte // nil when there is none
	Moved  int    // bytes
}

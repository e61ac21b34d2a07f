package scsi

// Limits of the device server. Each says what happens when it is reached.
const (
	// MaxTransferBytes is the largest READ, COMPARE AND WRITE or ORWRITE; a larger one is refused with
	// ILLEGAL REQUEST, INVALID FIELD IN CDB. READ(10) of 65535 blocks of 4096 bytes fits.
	MaxTransferBytes = 256 << 20
	// MaxBufferBytes bounds the data-in buffers of one target; a command that would exceed it ends with
	// TASK SET FULL, which initiators retry.
	MaxBufferBytes = 1 << 30
	// MaxTasks bounds the task set of a unit; further commands end with TASK SET FULL.
	MaxTasks = 4096
	// MaxUnits bounds the units of a target; AddUnit then fails with ErrTooManyUnits.
	MaxUnits = 4096
	// MaxUnitAttentions bounds the conditions queued for one I_T_L nexus; a further one replaces the
	// newest (SAM-5 5.14 lets a device server keep as few as one).
	MaxUnitAttentions = 16
	// MaxRegistrations bounds the reservation keys of a unit; a further REGISTER ends with ILLEGAL
	// REQUEST, INSUFFICIENT REGISTRATION RESOURCES.
	MaxRegistrations = 256
	// MaxUnmapDescriptors is announced in the block limits page; a longer list is refused with ILLEGAL
	// REQUEST, INVALID FIELD IN PARAMETER LIST. It is what fits the 16-bit parameter list length; still it has to be
	// said: libiscsi's suite takes a unit that announces none for one that can do anything.
	MaxUnmapDescriptors = (65535 - 8) / 16
	// MaxCompareBlocks is the announced limit of COMPARE AND WRITE, in blocks; more is INVALID FIELD IN CDB.
	MaxCompareBlocks = 128
	// MaxModePages bounds the mode pages of a unit, and MaxModePageBytes the length of one; beyond
	// them Update fails with ErrInvalidParam.
	MaxModePages     = 64
	MaxModePageBytes = 4096

	// MaxCopyTargets, MaxCopySegments and MaxCopyListBytes bound an EXTENDED COPY as its operating parameters
	// announce; beyond them it is refused with TOO MANY TARGET or SEGMENT DESCRIPTORS, PARAMETER LIST LENGTH ERROR.
	MaxCopyTargets   = 16
	MaxCopySegments  = 256
	MaxCopyListBytes = copyHeaderBytes + MaxCopyTargets*copyTargetBytes + MaxCopySegments*copySegmentBytes
	// MaxCopyResults bounds the results of copies kept for one I_T_L nexus; the oldest goes.
	MaxCopyResults = 16

	// mergeBytes is how much ORWRITE merges at a time on a medium that several targets serve.
	mergeBytes = 256 << 10
	// eraseBytes is how much SANITIZE erases with one request.
	eraseBytes = 64 << 20
	// chunkBytes is how much VERIFY, WRITE SAME and WRITE AND VERIFY move at a time.
	chunkBytes = 1 << 20
	// maxStatusDescriptors and maxStatusQueries bound the work of one GET LBA STATUS; it then reports
	// less than the rest of the medium, as SBC-3 allows.
	maxStatusDescriptors = 1024
	maxStatusQueries     = 8192
)

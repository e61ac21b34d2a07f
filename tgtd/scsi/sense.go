package scsi

import "encoding/binary"

// senseCode is a sense key and an additional sense code with its qualifier: 0xKKAAQQ.
type senseCode uint32

// The sense codes in use (SPC-4).
const (
	noSense                  senseCode = 0x000000
	manualIntervention       senseCode = 0x020403 // LOGICAL UNIT NOT READY, MANUAL INTERVENTION REQUIRED
	becomingReady            senseCode = 0x020401
	notReadyStandby          senseCode = 0x02040b // TARGET PORT IN STANDBY STATE
	notReadyUnavailable      senseCode = 0x02040c // TARGET PORT IN UNAVAILABLE STATE
	notReadyTransition       senseCode = 0x02040a // ASYMMETRIC ACCESS STATE TRANSITION
	sanitizeInProgress       senseCode = 0x02041b
	mediumNotPresent         senseCode = 0x023a00
	removalPreventedNoMedium senseCode = 0x025302
	writeError               senseCode = 0x030c00
	unrecoveredReadError     senseCode = 0x031100
	sanitizeFailed           senseCode = 0x033103
	parameterListLength      senseCode = 0x051a00
	invalidOpcode            senseCode = 0x052000
	lbaOutOfRange            senseCode = 0x052100
	invalidFieldInCDB        senseCode = 0x052400
	unitNotSupported         senseCode = 0x052500
	invalidFieldInParameters senseCode = 0x052600
	tooManyTargets           senseCode = 0x052606 // TOO MANY TARGET DESCRIPTORS
	unsupportedTarget        senseCode = 0x052607 // UNSUPPORTED TARGET DESCRIPTOR TYPE CODE
	tooManySegments          senseCode = 0x052608
	unsupportedSegment       senseCode = 0x052609
	inlineDataLength         senseCode = 0x05260b
	invalidRelease           senseCode = 0x052604 // INVALID RELEASE OF PERSISTENT RESERVATION
	savingNotSupported       senseCode = 0x053900
	invalidMessage           senseCode = 0x054900
	removalPrevented         senseCode = 0x055302
	insufficientResources    senseCode = 0x055503
	noRegistrationResources  senseCode = 0x055504
	mediumMayHaveChanged     senseCode = 0x062800
	powerOnOrReset           senseCode = 0x062900
	modeParametersChanged    senseCode = 0x062a01
	reservationsPreempted    senseCode = 0x062a03
	reservationsReleased     senseCode = 0x062a04
	registrationsPreempted   senseCode = 0x062a05
	capacityChanged          senseCode = 0x062a09
	accessStateChanged       senseCode = 0x062a06 // ASYMMETRIC ACCESS STATE CHANGED
	reportedLUNsChanged      senseCode = 0x063f0e
	writeProtected           senseCode = 0x072700
	spaceAllocationFailed    senseCode = 0x072707
	copyTargetUnreachable    senseCode = 0x0a0d02 // COPY TARGET DEVICE NOT REACHABLE
	copyAborted              senseCode = 0x0a0000
	thirdPartyFailure        senseCode = 0x0a0d01 // THIRD PARTY DEVICE FAILURE
	internalTargetFailure    senseCode = 0x044400
	commandAborted           senseCode = 0x0b0000
	miscompare               senseCode = 0x0e1d00
)

func (s senseCode) key() byte  { return byte(s >> 16) }
func (s senseCode) asc() byte  { return byte(s >> 8) }
func (s senseCode) ascq() byte { return byte(s) }

// bytes encodes the code as fixed format sense data (SPC-4, 18 bytes) or descriptor format (8
// bytes).
func (s senseCode) bytes(descriptor bool) []byte {
	if descriptor {
		return []byte{0x72, s.key(), s.asc(), s.ascq(), 0, 0, 0, 0}
	}
	return append(make([]byte, 0, 18),
		0x70, 0, s.key(), 0, 0, 0, 0, 10, 0, 0, 0, 0, s.asc(), s.ascq(), 0, 0, 0, 0)
}

// bytesWithInformation is bytes with a valid INFORMATION field (SPC-4).
func (s senseCode) bytesWithInformation(descriptor bool, information uint64) []byte {
	b := s.bytes(descriptor)
	if descriptor {
		b[7] = 12
		b = append(b, 0, 10, 0x80, 0)
		return binary.BigEndian.AppendUint64(b, information)
	}
	b[0] |= 0x80
	binary.BigEndian.PutUint32(b[3:], uint32(information))
	return b
}

// bytesWithProgress is bytes with a progress indication in 65536ths (SPC-4 4.5.2.4.4).
func (s senseCode) bytesWithProgress(descriptor bool, progress uint16) []byte {
	b := s.bytes(descriptor)
	if descriptor {
		b[7] = 8
		b = append(b, 2, 6, 0, 0, 0x80, 0, 0, 0)
		binary.BigEndian.PutUint16(b[13:], progress)
		return b
	}
	b[15] = 0x80
	binary.BigEndian.PutUint16(b[16:], progress)
	return b
}

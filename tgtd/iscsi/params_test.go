package iscsi

import (
	"errors"
	"strings"
	"testing"
)

const defaultShow = `nop_interval=0
nop_count=0
MaxRecvDataSegmentLength=8192
HeaderDigest=None
DataDigest=None
InitialR2T=Yes
MaxOutstandingR2T=1
ImmediateData=Yes
FirstBurstLength=65536
MaxBurstLength=262144
DataPDUInOrder=Yes
DataSequenceInOrder=Yes
ErrorRecoveryLevel=0
IFMarker=No
OFMarker=No
DefaultTime2Wait=2
DefaultTime2Retain=20
OFMarkInt=Reject
IFMarkInt=Reject
MaxConnections=1
RDMAExtensions=Yes
TargetRecvDataSegmentLength=262144
InitiatorRecvDataSegmentLength=262144
MaxOutstandingUnexpectedPDUs=0
MaxXmitDataSegmentLength=8192
MaxQueueCmd=128
`

func TestDefaultParams(t *testing.T) {
	if got := DefaultParams().Show(); got != defaultShow {
		t.Errorf("got\n%s", got)
	}
}

// TestParamsSet holds what tgt 1.0.85 does with these values.
func TestParamsSet(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        string // the line of Show; empty: refused
	}{
		{"MaxRecvDataSegmentLength", "511", ""},
		{"MaxRecvDataSegmentLength", "512", "MaxRecvDataSegmentLength=512"},
		{"maxrecvdatasegmentlength", "16777215", "MaxRecvDataSegmentLength=16777215"},
		{"MaxRecvDataSegmentLength", "16777216", ""},
		{"MaxRecvDataSegmentLength", "abc", ""},
		{"MaxRecvDataSegmentLength", "0x2000", "MaxRecvDataSegmentLength=8192"},
		{"MaxRecvDataSegmentLength", "512=1024", "MaxRecvDataSegmentLength=512"},
		{"MaxBurstLength", "4096 x", "MaxBurstLength=4096"},
		{"MaxBurstLength", "-1", ""},
		{"MaxBurstLength", " 4096", "MaxBurstLength=4096"},
		{"MaxBurstLength", "+8192", "MaxBurstLength=8192"},
		{"MaxBurstLength", "010000", "MaxBurstLength=4096"},
		{"MaxBurstLength", "4294971392", "MaxBurstLength=4096"},
		{"MaxBurstLength", "", ""},
		{"MaxBurstLength", "0x", ""},
		{"FirstBurstLength", "16777216", ""},
		{"DefaultTime2Wait", "abc", "DefaultTime2Wait=0"},
		{"DefaultTime2Wait", "3601", ""},
		{"DefaultTime2Retain", "3600", "DefaultTime2Retain=3600"},
		{"ErrorRecoveryLevel", "-1", ""},
		{"ErrorRecoveryLevel", "3", ""},
		{"ErrorRecoveryLevel", "2", "ErrorRecoveryLevel=2"},
		{"MaxOutstandingR2T", "0", ""},
		{"MaxOutstandingR2T", "65536", ""},
		{"MaxConnections", "65535", "MaxConnections=65535"},
		{"MaxQueueCmd", "0", ""},
		{"maxqueuecmd", "512", "MaxQueueCmd=512"},
		{"MaxQueueCmd", "513", ""},
		{"MaxQueueCm", "7", ""},
		{"MaxOutstandingUnexpectedPDUs", "0", "MaxOutstandingUnexpectedPDUs=0"},
		{"MaxOutstandingUnexpectedPDUs", "-1", "MaxOutstandingUnexpectedPDUs=4294967295"},
		{"MaxOutstandingUnexpectedPDUs", "4294967295x", "MaxOutstandingUnexpectedPDUs=4294967295"},
		{"HeaderDigest", "CRC32C", "HeaderDigest=CRC32C"},
		{"HeaderDigest", "None,CRC32C", "HeaderDigest=CRC32C"},
		{"HeaderDigest", "CRC32CX,None", "HeaderDigest=CRC32C"},
		{"HeaderDigest", "NoneX", "HeaderDigest=None"},
		{"HeaderDigest", "None,bogus", ""},
		{"HeaderDigest", "None, CRC32C", ""},
		{"HeaderDigest", " None", ""},
		{"HeaderDigest", "None,", ""},
		{"HeaderDigest", "crc32c", ""},
		{"DataDigest", "", ""},
		{"InitialR2T", "No", "InitialR2T=No"},
		{"InitialR2T", "no", ""},
		{"InitialR2T", "Yes ", ""},
		{"OFMarker", "Yes", "OFMarker=Yes"},
		{"OFMarkInt", "2048", "OFMarkInt=Irrelevant"},
		{"IFMarkInt", "x", "IFMarkInt=Irrelevant"},
		{"nop_interval", "5", "nop_interval=5"},
		{"nop_interval", "abc", "nop_interval=0"},
		{"nop_interval", " 7x", "nop_interval=7"},
		{"nop_interval", "0x10", "nop_interval=0"},
		{"nop_intervalfoo", "9", "nop_interval=9"},
		{"nop_count", "-1", "nop_count=-1"},
		{"NOP_count", "1", ""},
		{"nop_int", "1", ""},
		{"TargetAlias", "x", ""},
		{"bogus", "1", ""},
	} {
		p := DefaultParams()
		before := p
		err := p.Set(c.name, c.value)
		if c.want == "" {
			known := !errors.Is(err, ErrUnknownParam)
			if err == nil || p != before || known && !errors.Is(err, ErrParamValue) {
				t.Errorf("Set(%q, %q) = %v, want a refusal that changes nothing", c.name, c.value, err)
			}
			continue
		}
		if err != nil || !strings.Contains("\n"+p.Show(), "\n"+c.want+"\n") {
			t.Errorf("Set(%q, %q) = %v; no line %q in\n%s", c.name, c.value, err, c.want, p.Show())
		}
	}
}

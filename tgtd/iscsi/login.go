package iscsi

import (
	"errors"
	"fmt"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Limits of the login phase: an initiator needs a handful of PDUs and a few hundred bytes.
const (
	maxLoginData   = 8192  // bytes of a data segment (RFC 7143 13.12: the default holds until full feature)
	maxLoginText   = 65536 // bytes of one text that comes in pieces (C bit)
	maxLoginRounds = 64    // login requests
	maxNameLength  = 223   // bytes of an iSCSI name (RFC 7143 4.2.7.1)
)

// portalGroupTag is the only target portal group there is.
const portalGroupTag = 1

// loginPhase is where a login stands.
type loginPhase uint8

const (
	phaseFirst        loginPhase = iota // nothing heard yet
	phaseSecurity                       // method of authentication to be agreed on
	phaseChapAsk                        // CHAP agreed on, CHAP_A awaited
	phaseChapResponse                   // challenge sent, response awaited
	phaseTrusted                        // authenticated, still in the security stage
	phaseOperational
	phaseDone
)

// login is the login phase of a connection (RFC 7143 6.3): a state machine that takes requests and
// gives responses, without a socket. The steps are phases; each takes the keys of one request.
//
//	phase         CSG  takes                         then
//	first         0 1  names, type; asks Directory   security or, with CSG 1, operational
//	security      0    AuthMethod                    trusted (None) or chapAsk
//	chapAsk       0    CHAP_A                        chapResponse
//	chapResponse  0    CHAP_N CHAP_R [CHAP_I CHAP_C] trusted
//	trusted       0    T                             operational
//	operational   1    operational keys, T           done
type login struct {
	dir   Directory
	peer  connAddrs
	phase loginPhase

	first     pdu.LoginRequest // the first request: ISID, TSIH, CID and CmdSN of the connection
	rounds    int
	text      []byte // pieces of a text that is not complete
	initiator string
	alias     string
	target    string
	discovery bool
	admission Admission
	chap      chap
	nego      *negotiation

	// trusted is asked once the initiator is authenticated: may it join or found the session it wants?
	trusted func(*login) LoginStatus
	// establish is asked when the login is complete; it returns the TSIH.
	establish func(*login) (uint16, LoginStatus)
	reason    error // why the login failed

	keepStages bool // a refusal shows the stages that success would have shown
}

// reply is the answer to one login request.
type reply struct {
	header pdu.LoginResponse // all but the sequence numbers
	text   []byte
	status LoginStatus
}

// step takes one request and gives its response. The login is over when the status of the reply is not
// LoginSuccess, or the phase is phaseDone.
func (l *login) step(req *pdu.LoginRequest, data []byte) reply {
	r := reply{header: pdu.LoginResponse{
		ISID: req.ISID, TSIH: req.TSIH, InitiatorTag: req.InitiatorTag, CSG: req.CSG, NSG: req.CSG,
	}}
	r.status = l.take(req, data, &r)
	if r.status != LoginSuccess {
		// tgt clears the stages of a refusal, but for one that is about the session.
		if !l.keepStages {
			r.header.Transit, r.header.CSG, r.header.NSG = false, 0, 0
		}
		r.header.StatusClass, r.header.StatusDetail = r.status.Class(), r.status.Detail()
	}
	return r
}

func (l *login) take(req *pdu.LoginRequest, data []byte, r *reply) LoginStatus {
	if status := l.checkHeader(req); status != LoginSuccess {
		return status
	}
	if len(l.text)+len(data) > maxLoginText {
		return l.refuse(InitiatorError, fmt.Errorf("login text of more than %d bytes", maxLoginText))
	}
	l.text = append(l.text, data...)
	if req.Continue {
		return LoginSuccess // an empty response asks for the next piece
	}
	kvs, err := pdu.ParseText(l.text)
	l.text = l.text[:0]
	if err != nil {
		return l.refuse(InitiatorError, err)
	}
	if l.phase == phaseFirst {
		if status := l.introduce(req, kvs, r); status != LoginSuccess {
			return status
		}
	}
	if req.CSG == pdu.StageSecurity {
		return l.security(req, kvs, r)
	}
	return l.operational(req, kvs, r)
}

// checkHeader refuses requests whose header is impossible here.
func (l *login) checkHeader(req *pdu.LoginRequest) LoginStatus {
	l.rounds++
	wantCSG := pdu.StageSecurity
	if l.phase == phaseOperational {
		wantCSG = pdu.StageOperational
	}
	switch {
	case l.phase == phaseFirst && req.VersionMin > 0:
		return l.refuse(UnsupportedVersion, fmt.Errorf("version %d required", req.VersionMin))
	case l.rounds > maxLoginRounds:
		return l.refuse(InitiatorError, fmt.Errorf("more than %d login requests", maxLoginRounds))
	case req.Continue && req.Transit:
		return l.refuse(InitiatorError, errors.New("bits T and C together"))
	case l.phase != phaseFirst && req.CSG != wantCSG,
		l.phase == phaseFirst && req.CSG > pdu.StageOperational:
		return l.refuse(InitiatorError, fmt.Errorf("stage %d out of order", req.CSG))
	case req.Transit && (req.NSG <= req.CSG || req.NSG == 2):
		return l.refuse(InitiatorError, fmt.Errorf("transit from stage %d to %d", req.CSG, req.NSG))
	case l.phase != phaseFirst && (req.ISID != l.first.ISID || req.TSIH != l.first.TSIH || req.CID != l.first.CID):
		return l.refuse(InitiatorError, errors.New("ISID, TSIH or CID changed during login"))
	}
	return LoginSuccess
}

func (l *login) refuse(s LoginStatus, why error) LoginStatus {
	l.reason = why
	return s
}

// introduce takes the first request: who asks for what, in tgt's order of checks.
func (l *login) introduce(req *pdu.LoginRequest, kvs []pdu.KeyValue, r *reply) LoginStatus {
	l.first = *req
	sessionType := "Normal"
	for _, kv := range kvs {
		switch kv.Key {
		case "InitiatorName":
			l.initiator = kv.Value
		case "InitiatorAlias":
			l.alias = kv.Value
		case "TargetName":
			l.target = kv.Value
		case "SessionType":
			sessionType = kv.Value
		}
	}
	if req.ISID == [6]byte{} {
		return l.refuse(MissingParameter, errors.New("ISID of zeros"))
	}
	if l.initiator == "" || len(l.initiator) > maxNameLength || len(l.alias) > maxNameLength+32 {
		return l.refuse(MissingParameter, errors.New("InitiatorName missing or too long"))
	}
	params := DefaultParams()
	switch sessionType {
	case "Discovery":
		l.discovery = true
		l.admission = Admission{Accounts: l.dir.DiscoveryAccounts()}
	case "Normal":
		if l.target == "" {
			return l.refuse(MissingParameter, errors.New("TargetName missing"))
		}
		l.admission = l.dir.Admit(l.target, l.initiator, l.peer.remote, l.peer.local)
		if status := l.admission.Status; status != LoginSuccess {
			if status.Class() == 1 {
				r.text = pdu.AppendText(r.text, "TargetAddress", l.admission.Redirect)
			}
			return l.refuse(status, fmt.Errorf("target %.250q", l.target))
		}
		params = l.admission.Params
	default:
		return l.refuse(SessionTypeNotSupport, fmt.Errorf("SessionType=%.80q", sessionType))
	}
	r.text = pdu.AppendText(r.text, "TargetPortalGroupTag", "1")
	l.nego = newNegotiation(params)
	if req.CSG == pdu.StageOperational {
		if len(l.admission.Accounts.Incoming) > 0 {
			return l.refuse(AuthFailure, errors.New("no authentication offered"))
		}
		return l.authenticated()
	}
	l.phase = phaseSecurity
	return LoginSuccess
}

// security takes the keys of one request of the security stage (RFC 7143 6.3.2).
func (l *login) security(req *pdu.LoginRequest, kvs []pdu.KeyValue, r *reply) LoginStatus {
	entered := l.phase
	said := make(map[string]string, len(kvs))
	for _, kv := range kvs {
		switch kv.Key {
		case "AuthMethod":
			if l.phase == phaseSecurity {
				l.chooseMethod(kv.Value, r)
			}
		case "CHAP_A", "CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C":
			said[kv.Key] = kv.Value
		default:
			if !silentKey(kv.Key) {
				r.text = pdu.AppendText(r.text, kv.Key, answerNotUnderstood)
			}
		}
	}
	var err error
	switch l.phase {
	case phaseSecurity: // no method was agreed on
		return l.refuse(AuthFailure, errors.New("no AuthMethod in common"))
	case phaseChapAsk:
		list, ok := said["CHAP_A"]
		if !ok && entered == phaseSecurity {
			break // the answer to AuthMethod goes out first
		}
		r.text, err = l.chap.ask(r.text, list)
		l.phase = phaseChapResponse
	case phaseChapResponse:
		r.text, err = l.chap.check(r.text, said, l.admission.Accounts)
		l.phase = phaseTrusted
	}
	switch {
	case errors.Is(err, errChapRefused):
		return l.refuse(AuthFailure, err)
	case err != nil:
		return l.refuse(InitiatorError, err)
	case l.phase != phaseTrusted || !req.Transit:
		return LoginSuccess
	}
	// An initiator that wants to skip the operational stage is led into it, as tgt does.
	r.header.Transit, r.header.NSG = true, pdu.StageOperational
	return l.authenticated()
}

// authenticated leads into the operational stage, if the session that the initiator names is its own.
func (l *login) authenticated() LoginStatus {
	l.phase = phaseOperational
	l.keepStages = true
	status := l.trusted(l)
	l.keepStages = status != LoginSuccess
	return status
}

// chooseMethod answers AuthMethod: CHAP where accounts guard the target, else None.
func (l *login) chooseMethod(list string, r *reply) {
	want, phase := "None", phaseTrusted
	if len(l.admission.Accounts.Incoming) > 0 {
		want, phase = "CHAP", phaseChapAsk
	}
	if !inList(list, want) {
		r.text = pdu.AppendText(r.text, "AuthMethod", answerReject)
		return
	}
	r.text = pdu.AppendText(r.text, "AuthMethod", want)
	l.phase = phase
}

func inList(list, want string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if item == want {
			return true
		}
	}
	return false
}

// operational takes the keys of one request of the operational stage (RFC 7143 6.3.3).
func (l *login) operational(req *pdu.LoginRequest, kvs []pdu.KeyValue, r *reply) LoginStatus {
	for _, kv := range kvs {
		r.text = l.nego.receive(r.text, kv.Key, kv.Value)
	}
	var asked bool
	r.text, asked = l.nego.propose(r.text)
	if asked || !req.Transit {
		return LoginSuccess
	}
	tsih, status := l.establish(l)
	if status != LoginSuccess {
		return status
	}
	l.phase = phaseDone
	r.header.Transit, r.header.NSG, r.header.TSIH = true, pdu.StageFullFeature, tsih
	return LoginSuccess
}

// nexus makes the I_T nexus of the session that this login founds.
func (l *login) nexus(session uint64) *sam.Nexus {
	return &sam.Nexus{
		Session:       session,
		InitiatorName: l.initiator,
		ISID:          l.first.ISID,
		TargetName:    l.target,
		TargetTag:     portalGroupTag,
		Peer:          l.peer.remote,
	}
}

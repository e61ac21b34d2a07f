// Package isns is a client of the Internet Storage Name Service, RFC 4171: it tells a server which targets there are
// and at which portals, keeps the registration alive, takes it back in the end, and asks the server which initiators
// share a discovery domain with a target. It knows nothing of sessions.
//
// One goroutine holds the connection and the registration: it registers anew, replacing everything, whenever
// something changed, and by a third of the registration period (RFC 4171 6.2.6) when nothing did, so that a server
// that was started anew, or forgot, has it soon. Another answers status inquiries and takes change notifications,
// as datagrams; a notification has the first one ask again. While there is no server it is tried again, from
// retryMin to retryMax apart.
//
// What a server can make us hold: one message of maxMessage bytes, and maxInitiators names for each target.
package isns

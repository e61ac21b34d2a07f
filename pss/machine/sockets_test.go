package machine

import (
	"net"
	"testing"
)

func TestSockets(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	client, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := tcp.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	found, err := Sockets(tcp.Addr().(*net.TCPAddr).Port, udp.LocalAddr().(*net.UDPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 3 {
		t.Fatalf("%+v", found)
	}
	if k := found[0]; k.Proto != "tcp" || k.State != "LISTEN" || k.Local != tcp.Addr().String() || k.Remote != "0.0.0.0:*" {
		t.Errorf("%+v", k)
	}
	if k := found[1]; k.State != "ESTABLISHED" || k.Local != tcp.Addr().String() || k.Remote != client.LocalAddr().String() {
		t.Errorf("%+v", k)
	}
	if k := found[2]; k.Proto != "udp" || k.State != "" || k.Local != udp.LocalAddr().String() || k.Remote != "0.0.0.0:*" {
		t.Errorf("%+v", k)
	}
}

package scripted

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// The parts of HTTP/2 that the proxy must know.
const (
	preface = len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	header  = 9

	frameData      = 0
	frameHeaders   = 1
	frameRSTStream = 3

	flagEndStream = 1
)

// The error codes of RST_STREAM.
const (
	NoError       = 0
	InternalError = 2
	Cancel        = 8
)

// A Proxy forwards connections from Target to a server, and breaks them on demand.
type Proxy struct {
	Target string

	server    string
	mu        sync.Mutex
	links     map[*link]struct{}
	cutInside bool // cut the connection in the middle of the next data frame
	refuse    bool
	frozen    chan struct{}
}

// A link is one connection through the proxy.
type link struct {
	client, server net.Conn
	writing        [2]sync.Mutex // toClient and toServer
	streams        sync.Map      // the identifiers of open streams that the server has answered
}

// StartProxy starts a proxy for a server. It stops at the end of the test.
func StartProxy(t testing.TB, server string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Target: listener.Addr().String(), server: server, links: map[*link]struct{}{}}
	var pumps sync.WaitGroup
	pumps.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			pumps.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.Thaw()
		p.Refuse()
		pumps.Wait()
	})
	return p
}

// Cut closes all connections. New ones are still forwarded.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

// Refuse closes all connections, and new ones immediately.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.Cut()
}

// CutInside closes a connection after half of the next data frame was forwarded to the client.
func (p *Proxy) CutInside() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutInside = true
}

// Freeze stops forwarding without closing connections, until Thaw is called.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

// Thaw resumes forwarding after Freeze.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

// Reset sends RST_STREAM to both sides of all streams. Connections stay open.
func (p *Proxy) Reset(code uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.streams.Range(func(id, _ any) bool {
			frame := make([]byte, header, header+4)
			frame[2], frame[3] = 4, frameRSTStream
			binary.BigEndian.PutUint32(frame[5:], id.(uint32))
			frame = binary.BigEndian.AppendUint32(frame, code)
			_ = l.write(toClient, frame)
			_ = l.write(toServer, frame)
			return true
		})
	}
}

const (
	toClient = iota
	toServer
)

func (p *Proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server}
	p.mu.Lock()
	p.links[l] = struct{}{}
	if p.refuse {
		l.close()
	}
	p.mu.Unlock()
	var pumps sync.WaitGroup
	pumps.Go(func() {
		defer l.close()
		if _, err := io.CopyN(server, client, int64(preface)); err == nil {
			p.pump(l, client, toServer)
		}
	})
	pumps.Go(func() {
		defer l.close()
		p.pump(l, server, toClient)
	})
	pumps.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pump forwards frames until the connection ends.
func (p *Proxy) pump(l *link, from io.Reader, to int) {
	for {
		frame := make([]byte, header)
		if _, err := io.ReadFull(from, frame); err != nil {
			return
		}
		length := int(frame[0])<<16 | int(frame[1])<<8 | int(frame[2])
		frame = append(frame, make([]byte, length)...)
		if _, err := io.ReadFull(from, frame[header:]); err != nil {
			return
		}
		p.mu.Lock()
		frozen := p.frozen
		cut := p.cutInside && to == toClient && frame[3] == frameData && length > 1
		p.cutInside = p.cutInside && !cut
		p.mu.Unlock()
		if frozen != nil {
			<-frozen
		}
		if cut {
			_ = l.write(to, frame[:header+length/2])
			return
		}
		if to == toClient {
			l.note(frame)
		}
		if err := l.write(to, frame); err != nil {
			return
		}
	}
}

// note records which streams are open, from a frame of the server.
func (l *link) note(frame []byte) {
	id := binary.BigEndian.Uint32(frame[5:])
	switch {
	case frame[3] != frameData && frame[3] != frameHeaders:
	case frame[4]&flagEndStream != 0:
		l.streams.Delete(id)
	default:
		l.streams.Store(id, true)
	}
}

func (l *link) write(to int, frame []byte) error {
	l.writing[to].Lock()
	defer l.writing[to].Unlock()
	_, err := [2]net.Conn{l.client, l.server}[to].Write(frame)
	return err
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}

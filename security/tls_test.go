package security_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/security"
)

func newCA(t testing.TB) *security.DevCA {
	t.Helper()
	ca, err := security.NewDevCA(filepath.Join(t.TempDir(), "certs"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t testing.TB, ca *security.DevCA, node string, hosts ...string) security.CertFiles {
	t.Helper()
	files, err := ca.Issue(node, hosts...)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// write writes a file of a test and returns its path.
func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// made is a certificate that DevCA would not issue, and its CA, which is
// itself.
func made(t testing.TB, key any, public any, change func(*x509.Certificate)) security.CertFiles {
	t.Helper()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "n"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		DNSNames: []string{"n"}, IsCA: true, BasicConstraintsValid: true,
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := write(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return security.CertFiles{CertFile: cert, KeyFile: write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), CAFile: cert}
}

func madeEC(t testing.TB, change func(*x509.Certificate)) security.CertFiles {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return made(t, key, key.Public(), change)
}

func TestLoadTLS(t *testing.T) {
	ca := newCA(t)
	files := issue(t, ca, "node-1", "127.0.0.1", "::1", "node-1.example")
	cfg, err := security.LoadTLS(files.CertFile, files.KeyFile, files.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	leaf := cfg.Certificates[0].Leaf
	if leaf.URIs[0].String() != "spiffe://shop/node/node-1" || leaf.URIs[0].String() != security.NodeURI("shop", "node-1").String() {
		t.Error(leaf.URIs)
	}
	for _, host := range []string{"127.0.0.1", "::1", "node-1.example"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if cfg.MinVersion != tls.VersionTLS13 || cfg.ClientAuth != tls.RequireAndVerifyClientCert || cfg.RootCAs == nil || cfg.ClientCAs == nil {
		t.Errorf("%+v", cfg)
	}
	if err := security.CheckTLS(cfg, time.Now()); err != nil {
		t.Error(err)
	}
	// Comments and a key beside the certificate do no harm, nor does a second CA.
	other := issue(t, newCA(t), "x", "x")
	cas := append([]byte("the CAs of two clusters\n"), append(read(t, other.CAFile), read(t, files.CAFile)...)...)
	both := write(t, "both.pem", append(read(t, files.KeyFile), read(t, files.CertFile)...))
	if _, err := security.LoadTLS(both, both, write(t, "cas.pem", cas)); err != nil {
		t.Error(err)
	}
}

func TestKeyForms(t *testing.T) {
	ec, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	none := func(*x509.Certificate) {}
	ecFiles, rsFiles, edFiles := made(t, ec, ec.Public(), none), made(t, rs, rs.Public(), none), made(t, ed, ed.Public(), none)
	sec1, pkcs1 := ecFiles, rsFiles
	sec1.KeyFile = write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ecDER}))
	pkcs1.KeyFile = write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rs)}))
	for name, f := range map[string]security.CertFiles{"ECDSA": ecFiles, "RSA": rsFiles, "Ed25519": edFiles, "SEC 1": sec1, "PKCS#1": pkcs1} {
		if _, err := security.LoadTLS(f.CertFile, f.KeyFile, f.CAFile); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFaults: each names a file, says what to do, and has nothing of the key.
func TestFaults(t *testing.T) {
	ca := newCA(t)
	good := issue(t, ca, "good", "127.0.0.1")
	other := issue(t, newCA(t), "other", "127.0.0.1")
	ca.Lifetime = -time.Minute
	old := issue(t, ca, "old", "127.0.0.1")
	secret := read(t, good.KeyFile)
	broken := bytes.Replace(secret, []byte("BEGIN PRIVATE KEY-----\n"), []byte("BEGIN PRIVATE KEY-----\nAAAA"), 1)
	block, _ := pem.Decode(secret)
	with := func(f func(*security.CertFiles)) security.CertFiles {
		c := good
		f(&c)
		return c
	}
	certIs := func(data []byte) security.CertFiles {
		return with(func(f *security.CertFiles) { f.CertFile = write(t, "bad.pem", data) })
	}
	keyIs := func(data []byte) security.CertFiles {
		return with(func(f *security.CertFiles) { f.KeyFile = write(t, "bad.key", data) })
	}
	usage := func(u ...x509.ExtKeyUsage) security.CertFiles {
		return madeEC(t, func(c *x509.Certificate) { c.ExtKeyUsage = u })
	}
	for _, c := range []struct {
		name  string
		files security.CertFiles
		says  []string
	}{
		{"no certificate file", with(func(f *security.CertFiles) { f.CertFile = "/nowhere/x.pem" }), []string{"/nowhere/x.pem", "certificate file does not exist", "create it"}},
		{"no key file", with(func(f *security.CertFiles) { f.KeyFile = "/nowhere/x.key" }), []string{"/nowhere/x.key", "key file does not exist"}},
		{"no CA file", with(func(f *security.CertFiles) { f.CAFile = "" }), []string{"no CA file"}},
		{"a directory", with(func(f *security.CertFiles) { f.CertFile = ca.Dir() }), []string{ca.Dir(), "directory"}},
		{"empty", certIs(nil), []string{"bad.pem", "PEM"}},
		{"huge", certIs(make([]byte, 2<<20)), []string{"bad.pem", "more than"}},
		{"DER", certIs([]byte{0x30, 0x82, 1, 2}), []string{"bad.pem", "BEGIN CERTIFICATE"}},
		{"torn certificate", certIs(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), []string{"bad.pem", "certificate 1"}},
		{"key for certificate", certIs(secret), []string{"bad.pem", "mixed up"}},
		{"certificate for key", keyIs(read(t, good.CertFile)), []string{"bad.key", "mixed up"}},
		{"empty key", keyIs(nil), []string{"bad.key", "BEGIN PRIVATE KEY"}},
		{"torn key", keyIs(broken), []string{"bad.key"}},
		{"no key inside", keyIs(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes[1:]})), []string{"bad.key", "PKCS#8"}},
		{"encrypted key", keyIs(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})), []string{"bad.key", "encrypted", "openssl"}},
		{"encrypted key of old", keyIs(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("x")})), []string{"encrypted"}},
		{"other key", with(func(f *security.CertFiles) { f.KeyFile = other.KeyFile }), []string{other.KeyFile, good.CertFile, "does not belong"}},
		{"other CA", with(func(f *security.CertFiles) { f.CAFile = other.CAFile }), []string{good.CertFile, "verified"}},
		{"CA that did not sign", with(func(f *security.CertFiles) { f.CAFile = madeEC(t, func(*x509.Certificate) {}).CertFile }), []string{good.CertFile, "development CA of shop", "cert.pem"}},
		{"expired", old, []string{old.CertFile, "expired", "new one"}},
		{"not yet", madeEC(t, func(c *x509.Certificate) { c.NotBefore = c.NotAfter.Add(-time.Minute) }), []string{"cert.pem", "not valid before", "clock"}},
		{"no host", madeEC(t, func(c *x509.Certificate) { c.DNSNames = nil }), []string{"cert.pem", "no host"}},
		{"server only", usage(x509.ExtKeyUsageServerAuth), []string{"cert.pem", "lacks the extended key usage clientAuth;"}},
		{"client only", usage(x509.ExtKeyUsageClientAuth), []string{"cert.pem", "lacks the extended key usage serverAuth;"}},
		{"for mail", usage(x509.ExtKeyUsageEmailProtection), []string{"serverAuth and clientAuth;"}},
		{"not for signatures", madeEC(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement | x509.KeyUsageCertSign }), []string{"digitalSignature"}},
	} {
		_, err := security.LoadTLS(c.files.CertFile, c.files.KeyFile, c.files.CAFile)
		if !errors.Is(err, base.ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v, want %q in it", c.name, err, s)
			}
		}
		leaks(t, err, secret)
	}
}

func TestAllFilesAreNamed(t *testing.T) {
	_, err := security.LoadTLS("/nowhere/1", "/nowhere/2", "/nowhere/3")
	for i := 1; i <= 3; i++ {
		if !strings.Contains(fmt.Sprint(err), fmt.Sprintf("/nowhere/%d", i)) {
			t.Errorf("%v does not name file %d", err, i)
		}
	}
}

// leaks looks for a line of the key in an error.
func leaks(t testing.TB, err error, key []byte) {
	t.Helper()
	for _, line := range strings.Split(string(key), "\n") {
		if line != "" && !strings.HasPrefix(line, "-----") && strings.Contains(err.Error(), line) {
			t.Errorf("a line of the key is in %v", err)
		}
	}
}

func TestCredentials(t *testing.T) {
	files := issue(t, newCA(t), "n", "n")
	good, err := security.LoadTLS(files.CertFile, files.KeyFile, files.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	from := func(change func(*tls.Config)) security.TLS {
		cfg := good.Clone()
		change(cfg)
		return security.TLS{Provider: func() (*tls.Config, error) { return cfg, nil }}
	}
	for name, c := range map[string]security.TLS{
		"files":    {CertFile: files.CertFile, KeyFile: files.KeyFile, CAFile: files.CAFile},
		"provider": from(func(*tls.Config) {}),
		"one pool": from(func(c *tls.Config) { c.RootCAs = nil }),
		"functions": from(func(c *tls.Config) {
			c.Certificates = nil
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, nil }
		}),
	} {
		provide, err := c.Credentials()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if cfg, err := provide(); err != nil || cfg == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	foreign, err := security.LoadTLS(trio(issue(t, newCA(t), "f", "f")))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]security.TLS{
		"nothing":   {},
		"both":      {CertFile: "x", Provider: from(func(*tls.Config) {}).Provider},
		"two files": {CertFile: files.CertFile, KeyFile: files.KeyFile},
		"an error":  {Provider: func() (*tls.Config, error) { return nil, errors.New("vault is sealed") }},
		"nil":       {Provider: func() (*tls.Config, error) { return nil, nil }},
		"skips":     from(func(c *tls.Config) { c.InsecureSkipVerify = true }),
		"no CA":     from(func(c *tls.Config) { c.RootCAs, c.ClientCAs = nil, nil }),
		"no cert":   from(func(c *tls.Config) { c.Certificates = nil }),
		"other CA":  from(func(c *tls.Config) { c.RootCAs = foreign.RootCAs }),
		"other key": from(func(c *tls.Config) {
			c.Certificates = []tls.Certificate{{Certificate: good.Certificates[0].Certificate, PrivateKey: foreign.Certificates[0].PrivateKey}}
		}),
		"torn":       from(func(c *tls.Config) { c.Certificates = []tls.Certificate{{Certificate: [][]byte{{1}}}} }),
		"empty cert": from(func(c *tls.Config) { c.Certificates = []tls.Certificate{{}} }),
	} {
		if _, err := c.Credentials(); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func trio(f security.CertFiles) (string, string, string) { return f.CertFile, f.KeyFile, f.CAFile }

// FuzzLoadTLS: whatever the files hold, there is no panic, and what is accepted
// can be used.
func FuzzLoadTLS(f *testing.F) {
	files := issue(f, newCA(f), "n", "n")
	f.Add(read(f, files.CertFile), read(f, files.KeyFile), read(f, files.CAFile))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"), []byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----"), []byte{})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, cert, key, ca []byte) {
		var paths []string
		for i, data := range [][]byte{cert, key, ca} {
			paths = append(paths, filepath.Join(dir, fmt.Sprint(i)))
			if err := os.WriteFile(paths[i], data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg, err := security.LoadTLS(paths[0], paths[1], paths[2])
		if err == nil {
			err = security.CheckTLS(cfg, time.Now())
		} else if !errors.Is(err, base.ErrInvalid) {
			t.Fatal(err)
		} else {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

package storage
import ("testing";"time";"path/filepath";"context";"fmt";"io")
func TestZZ(t *testing.T){
 for _, n := range []int{30,1024} {
  s := openStream(t, Config{Shards:n})
  for i := range 200 { mustPut(t,s,0,testKey(i),1,"v") }
  start:=time.Now(); dir := backUp(t,s); fmt.Println(n,"backup",time.Since(start))
  start=time.Now(); if err:=RestoreBackup(context.Background(),dir,Config{Dir:filepath.Join(t.TempDir(),"x")},nil);err!=nil{t.Fatal(err)}; fmt.Println(n,"restore",time.Since(start))
 }
 s := openStream(t, Config{Dir:t.TempDir(), Durability: Relaxed})
 for i := 0; i<1_000_000; i+=1000 { mustWrite(t,s,func(b *Batch){ for j:=range 1000 { b.Put(0,testKey(i+j),Record{Version:1,Value:make([]byte,256)}) } }) }
 s.Flush(context.Background())
 start:=time.Now(); info,_:=streamSnapshot(t,s).Export(context.Background(),0,io.Discard); d:=time.Since(start); fmt.Println("export",info.Entries,info.StreamBytes>>20,d, float64(info.StreamBytes)/1e6/d.Seconds(),"MB/s")
 start=time.Now(); dir := backUp(t,s); d=time.Since(start); fmt.Println("backup",d)
 start=time.Now(); VerifyBackup(context.Background(),dir); d=time.Since(start); fmt.Println("verify",d)
 start=time.Now(); x:=filepath.Join(t.TempDir(),"x"); if err:=RestoreBackup(context.Background(),dir,Config{Dir:x},nil);err!=nil{t.Fatal(err)}; fmt.Println("restore",time.Since(start))
 start=time.Now(); r,err:=Check(context.Background(),x); fmt.Println("check",time.Since(start), r, err)
}

"""What the broker does by itself: each script is one step that nothing can come between.

All keys of a namespace begin with ``cancelable:{<namespace>}:``, called P below. The braces
keep them in one slot of a cluster. ``<id>`` is always the tail of a key, so that no id, however
odd, can name another key.

===================  ======  ===============================================================
key                  type    content
===================  ======  ===============================================================
P op:<id>            hash    the record of an operation; ``m:<key>`` are its labels
P ops                zset    live ids by the time they began, in microseconds
P by:<sha1>          zset    the same for one owner or tenant
P w:<worker>         string  the lease: it runs out when the worker is not heard of
P ws                 zset    workers by their last heartbeat
P wops:<worker>      set     ids of the worker's live operations
P inbox:<worker>     set     ids of the worker's operations that were asked to stop
P mail:<worker>      string  how many requests came for the worker
P tomb:<id>          hash    a request for an operation that has not begun
P run, P epoch       string  which broker this is, and when it was first seen
===================  ======  ===============================================================

The record's ``cancel`` is the first request, with who and why. ``own`` says that somebody asked
with the operation's own grace, ``cut`` is the smallest grace that was asked for explicitly: a
later request cannot change the cause, but can shorten the grace. Times are milliseconds of the
broker's clock. Scripts may run twice without harm. A message that may not be published is not
an error of the step that it would have told of: what it says stands in the keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1

PRELUDE = """
local call=redis.call
local t=call('TIME')
local now=t[1]*1000+math.floor(t[2]/1000)
local precisely=t[1]*1000000+t[2]
local P=ARGV[1]
local function live(s) return s=='running' or s=='cancelling' or s=='pending' end
local function publish(channel,message)
  local n=redis.pcall('PUBLISH',P..channel,message)
  return type(n)=='number' and n or 0
end
local function changed(id) publish('ch:op:'..id,'{"v":1,"t":"changed"}') end
local function by(label,text) return P..'by:'..redis.sha1hex(label..'='..text) end
local function index(id,key,score,ttl)
  call('ZADD',P..'ops',score,id)
  for _,label in ipairs({'owner','tenant'}) do
    local text=call('HGET',key,'m:'..label)
    if text then
      local z=by(label,text)
      call('ZADD',z,score,id) call('PEXPIRE',z,ttl)
    end
  end
end
local function unindex(id,key)
  call('ZREM',P..'ops',id)
  for _,label in ipairs({'owner','tenant'}) do
    local text=call('HGET',key,'m:'..label)
    if text then call('ZREM',by(label,text),id) end
  end
end
local function merge(key,request,cut)
  if call('HSETNX',key,'cancel',request)==1 then call('HSET',key,'cancel_at',now) end
  if cut=='' then
    call('HSET',key,'own','1')
  else
    local old=call('HGET',key,'cut')
    if not old or tonumber(cut)<tonumber(old) then call('HSET',key,'cut',cut) end
  end
end
local function fits(key,from)
  for i=from,#ARGV,2 do
    if call('HGET',key,'m:'..ARGV[i])~=ARGV[i+1] then return false end
  end
  return true
end
local function settled(for_ms)
  local epoch=call('GET',P..'epoch')
  return epoch and now-epoch>=tonumber(for_ms)
end
local function lease(w) return w and call('GET',P..'w:'..w) or '' end
local function bury(w,most,ttl)
  local ids=call('SPOP',P..'wops:'..w,most)
  for _,id in ipairs(ids) do
    local key=P..'op:'..id
    local c=call('HMGET',key,'state','worker')
    if c[2]==w and live(c[1]) then
      unindex(id,key)
      call('HSET',key,'state','lost') call('PEXPIRE',key,ttl)
      changed(id)
    end
  end
  return #ids
end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """Hold one script and the name under which the broker keeps it."""

    text: str
    sha: str

    @classmethod
    def of(cls, body: str) -> Script:
        """Return a script with the words that all of them share in front."""
        text = PRELUDE + body
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


# Its own earlier record (announced again, or declared lost meanwhile) keeps what was asked of
# it. Any other record with this id is over, or its worker is gone: it gives way.
REGISTER = Script.of("""
-- KEYS op  ARGV P, id, worker, ttl, age, name, parent, request, state, labels...
local id,w,key,ttl=ARGV[2],ARGV[3],KEYS[1],ARGV[4]
local c=call('HMGET',key,'state','worker','place')
local mine=c[2]==w and (live(c[1]) or c[1]=='lost')
if not mine and c[1] and live(c[1]) and lease(c[2])~='' then return {'taken'} end
local place=mine and c[1]~='pending' and c[3] or string.format('%.0f',precisely-ARGV[5])
if not mine then
  if c[1] then unindex(id,key) end
  call('DEL',key)
  call('HSET',key,'worker',w,'name',ARGV[6],'parent',ARGV[7])
  for i=10,#ARGV,2 do call('HSET',key,'m:'..ARGV[i],ARGV[i+1]) end
  local tomb=P..'tomb:'..id
  local kept=call('HGETALL',tomb)
  if #kept>0 then
    local request,cut,same=nil,'',true
    for i=1,#kept,2 do
      if kept[i]=='cancel' then request=kept[i+1]
      elseif kept[i]=='cut' then cut=kept[i+1]
      elseif call('HGET',key,kept[i])~=kept[i+1] then same=false end
    end
    if same and request then merge(key,request,cut) call('DEL',tomb) end
  end
end
if ARGV[8]~='' and call('HSETNX',key,'cancel',ARGV[8])==1 then call('HSET',key,'cancel_at',now) end
local asked=call('HMGET',key,'cancel','own','cut')
call('HSET',key,'state',asked[1] and ARGV[9]=='running' and 'cancelling' or ARGV[9])
call('HSET',key,'place',place,'started',math.floor(place/1000))
call('HDEL',key,'ended')
call('PEXPIRE',key,ttl)
index(id,key,place,ttl)
call('SADD',P..'wops:'..w,id)
if asked[2] or asked[3] then call('SADD',P..'inbox:'..w,id) end
changed(id)
return {'ok',asked[1] or '',asked[2] or '',asked[3] or ''}
""")

ASKED = Script.of("""
-- KEYS op  ARGV P, id, worker, request
local c=call('HMGET',KEYS[1],'state','worker')
if c[2]~=ARGV[3] or not live(c[1]) then return 'fenced' end
if call('HSETNX',KEYS[1],'cancel',ARGV[4])==1 then call('HSET',KEYS[1],'cancel_at',now) end
if c[1]=='running' then call('HSET',KEYS[1],'state','cancelling') end
changed(ARGV[2])
return 'ok'
""")

PROGRESS = Script.of("""
-- KEYS op  ARGV P, id, worker, report
local c=call('HMGET',KEYS[1],'state','worker')
if c[2]~=ARGV[3] or not live(c[1]) then return 'fenced' end
call('HSET',KEYS[1],'progress',ARGV[4],'progress_at',now)
changed(ARGV[2])
return 'ok'
""")

# An empty state takes the record away: the operation runs on, unlisted.
FINISH = Script.of("""
-- KEYS op  ARGV P, id, worker, retention, state, error, request
local id,w,key=ARGV[2],ARGV[3],KEYS[1]
call('SREM',P..'wops:'..w,id) call('SREM',P..'inbox:'..w,id)
local c=call('HMGET',key,'state','worker')
if not c[1] then return 'gone' end
if c[2]~=w or not (live(c[1]) or c[1]=='lost') then return 'fenced' end
unindex(id,key)
if ARGV[5]=='' then
  call('DEL',key)
else
  call('HSET',key,'state',ARGV[5],'ended',now)
  if ARGV[6]~='' then call('HSET',key,'error',ARGV[6]) end
  if ARGV[7]~='' then
    call('HSET',key,'cancel',ARGV[7]) call('HSETNX',key,'cancel_at',now)
  end
  call('PEXPIRE',key,ARGV[4])
end
changed(id)
return 'ok'
""")

# First into the record and the inbox, then the bell: whoever subscribes before it reads the
# inbox misses nothing. The request for a lost operation is kept for a worker that comes back.
CANCEL = Script.of("""
-- KEYS op  ARGV P, id, request, cut, settle, remember, mail_ttl, labels...
local id,key=ARGV[2],KEYS[1]
local c=call('HMGET',key,'state','worker')
if not c[1] or not fits(key,8) then
  if ARGV[6]~='0' then
    local tomb=P..'tomb:'..id
    if call('EXISTS',tomb)==0 then
      call('HSET',tomb,'cancel',ARGV[3],'cut',ARGV[4])
      for i=8,#ARGV,2 do call('HSET',tomb,'m:'..ARGV[i],ARGV[i+1]) end
      call('PEXPIRE',tomb,ARGV[6])
    end
    return {'remembered'}
  end
  return {settled(ARGV[5]) and 'unknown' or 'unsettled'}
end
local w=c[2]
if c[1]~='lost' and not live(c[1]) then
  return {'finished',0,call('HGETALL',key),lease(w)}
end
local first=call('HEXISTS',key,'cancel')==0
merge(key,ARGV[3],ARGV[4])
call('SADD',P..'inbox:'..w,id) call('PEXPIRE',P..'inbox:'..w,ARGV[7])
call('INCR',P..'mail:'..w) call('PEXPIRE',P..'mail:'..w,ARGV[7])
if c[1]=='running' then call('HSET',key,'state','cancelling') end
local asked=call('HMGET',key,'cancel','own','cut')
local ring={v=1,t='cancel',id=id,cancel=asked[1],own=asked[2] or '',cut=asked[3] or ''}
local n=publish('ch:w:'..w,cjson.encode(ring))
if first then changed(id) end
if c[1]=='lost' or lease(w)=='' then return {'lost',n,call('HGETALL',key),''} end
return {first and 'requested' or 'already_requested',n,call('HGETALL',key),lease(w)}
""")

# What the bell has said, read from where it is kept.
TAKE = Script.of("""
-- KEYS lease  ARGV P, worker
local w=ARGV[2]
local found={call('GET',P..'mail:'..w) or '0'}
for _,id in ipairs(call('SMEMBERS',P..'inbox:'..w)) do
  local c=call('HMGET',P..'op:'..id,'worker','cancel','own','cut')
  if c[1]==w and c[2] and (c[3] or c[4]) then
    found[#found+1]=id found[#found+1]=c[2] found[#found+1]=c[3] or '' found[#found+1]=c[4] or ''
  end
end
return found
""")

GET = Script.of("""
-- KEYS op  ARGV P, settle, labels...
local c=call('HMGET',KEYS[1],'state','worker')
if not c[1] or not fits(KEYS[1],3) then return {settled(ARGV[2]) and 'unknown' or 'unsettled'} end
return {'found',0,call('HGETALL',KEYS[1]),lease(c[2])}
""")

# A place is found by rank, and by time where the operation that stood there has ended. Ids are
# never compared for order: how a script compares strings depends on the locale of the broker.
LIST = Script.of("""
-- KEYS ops  ARGV P, at, id, limit, labels...
local z,limit=KEYS[1],tonumber(ARGV[4])
for i=5,#ARGV,2 do
  if ARGV[i]=='owner' or ARGV[i]=='tenant' then z=by(ARGV[i],ARGV[i+1]) end
end
local start=call('ZCOUNT',z,'-inf','('..ARGV[2])
local rank=call('ZRANK',z,ARGV[3])
if rank and tonumber(call('ZSCORE',z,ARGV[3]))==tonumber(ARGV[2]) then start=rank+1 end
local ids=call('ZRANGE',z,start,start+limit-1,'WITHSCORES')
local more=call('ZCARD',z)>start+limit
local found={more and ids[#ids] or '',more and ids[#ids-1] or ''}
local leases={}
for i=1,#ids,2 do
  local key=P..'op:'..ids[i]
  local c=call('HMGET',key,'state','worker')
  if not (c[1] and live(c[1])) then
    call('ZREM',z,ids[i])
  elseif fits(key,5) then
    if not leases[c[2]] then leases[c[2]]=lease(c[2]) end
    found[#found+1]={ids[i],call('HGETALL',key),leases[c[2]]}
  end
end
return found
""")

# With a run: which broker this is; one that was not seen before, or has forgotten when it was,
# may not know operations that are live.
BEAT = Script.of("""
-- KEYS lease  ARGV P, worker, lease, info, beat, ttl, run
local w=ARGV[2]
local strange=ARGV[7]~='' and call('GET',P..'run')~=ARGV[7]
if strange then call('SET',P..'run',ARGV[7]) end
if strange or call('EXISTS',P..'epoch')==0 then call('SET',P..'epoch',now) end
call('SET',KEYS[1],ARGV[4],'PX',ARGV[3])
call('ZADD',P..'ws',now,w)
for _,name in ipairs({'ws','ops','wops:'..w}) do call('PEXPIRE',P..name,ARGV[6]) end
publish('ch:w:'..w,cjson.encode({v=1,t='beat',n=tonumber(ARGV[5])}))
return {call('SCARD',P..'wops:'..w),tonumber(call('GET',P..'mail:'..w) or 0)}
""")

OWNED = Script.of("""
-- KEYS wops
return call('SMEMBERS',KEYS[1])
""")

SWEEP = Script.of("""
-- KEYS ws  ARGV P, lease, ttl
local done=0
for _,w in ipairs(call('ZRANGEBYSCORE',KEYS[1],'-inf',now-ARGV[2],'LIMIT',0,16)) do
  if lease(w)=='' then
    local n=bury(w,500,ARGV[3])
    if n==0 then call('ZREM',KEYS[1],w) call('DEL',P..'inbox:'..w,P..'mail:'..w) end
    done=done+n
  end
end
return done
""")

LEAVE = Script.of("""
-- KEYS lease  ARGV P, worker, ttl
local w=ARGV[2]
local n=bury(w,500,ARGV[3])
if n==0 then
  call('DEL',KEYS[1],P..'inbox:'..w,P..'mail:'..w)
  call('ZREM',P..'ws',w)
end
return n
""")

ALL = (REGISTER, ASKED, PROGRESS, FINISH, CANCEL, TAKE, GET, LIST, BEAT, OWNED, SWEEP, LEAVE)

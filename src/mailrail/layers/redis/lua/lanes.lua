-- Into its place: due, or behind the others of its lane, at whose tail it is. In one with several places, a claim decides.
local function put_last(hash_tag, id, s, due)
    if s.place < 0 then
        call('SET', hash_tag .. ':places', 1)
    elseif s.lane ~= '' then
        local lane = hash_tag .. ':lane:' .. s.lane
        local found = call('ZRANGE', lane, -1, -1, 'WITHSCORES')
        while found[1] and call('HEXISTS', hash_tag .. ':state', found[1]) == 0 do -- gone, and its state lost before that
            call('ZREM', lane, found[1])
            found = call('ZRANGE', lane, -1, -1, 'WITHSCORES')
        end
        local last = found[2]
        s.place = (tonumber(last) or 0) + 1
        call('ZADD', lane, s.place, id)
        if last then
            call('ZADD', hash_tag .. ':held', due, id)
            return false
        end
    end
    return put_due(hash_tag, id, s.priority, due)
end

-- Into its place: due, or behind the others of its lane, at whose tail it is.
local function put_last(tag, id, s, due)
    if s.lane ~= '' then
        local lane = tag .. ':lane:' .. s.lane
        local last = call('ZRANGE', lane, -1, -1, 'WITHSCORES')[2]
        s.place = (tonumber(last) or 0) + 1
        call('ZADD', lane, s.place, id)
        if last then
            call('ZADD', tag .. ':held', due, id)
            return false
        end
    end
    return put_due(tag, id, s.priority, due)
end

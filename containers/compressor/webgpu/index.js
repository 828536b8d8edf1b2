// splat-transform imports these two names at start and calls `create` only for work on a GPU.
export const globals = {};
export const create = () => {
    throw new Error('no GPU here: pass -g cpu');
};
